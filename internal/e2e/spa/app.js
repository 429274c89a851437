// The least that a frontend of a BFF does: ask who is signed in, send people
// to /login with the way back, call the API through the proxy, sign out.
'use strict';

const $ = (id) => document.getElementById(id);
const bffFetch = (url, init = {}) => fetch(url, { ...init, headers: { ...init.headers, 'X-CSRF': '1' } });

function draw(state, session, reason) {
  const here = state === 'signed-in';
  document.body.dataset.state = state;
  document.body.dataset.sub = session?.sub ?? '';
  document.body.dataset.reason = reason ?? '';
  $('who').textContent = here
    ? `Signed in as ${session.claims?.name ?? session.sub} (${session.groups.join(', ')})`
    : state === 'signed-out' ? 'Signed out' : '…';
  $('where').textContent = location.pathname + location.search + location.hash;
  $('sign-in').hidden = state !== 'signed-out';
  for (const id of ['call', 'sign-out', 'sign-out-here']) $(id).hidden = !here;
  if (!here) $('api').textContent = '';
}

async function refresh() {
  const res = await bffFetch('/auth/session');
  if (res.status === 401) {
    draw('signed-out', null, res.headers.get('BFF-Reason'));
  } else if (res.ok) {
    draw('signed-in', await res.json());
  } else {
    draw('error', null, res.headers.get('BFF-Reason') ?? String(res.status));
  }
}

$('sign-in').addEventListener('click', () => {
  location.assign('/login?returnUrl=' + encodeURIComponent(location.pathname + location.search + location.hash));
});

$('call').addEventListener('click', async () => {
  const res = await bffFetch('/api/orders?page=1');
  $('api').textContent = `${res.status} ${await res.text()}`;
});

// Ends the session here and leaves the issuer's alone: the redirectUrl of the
// answer, which would end that too, is not followed.
$('sign-out-here').addEventListener('click', async () => {
  const res = await bffFetch('/logout', { method: 'POST', headers: { Accept: 'application/json' } });
  const { redirectUrl } = await res.json();
  window.lastRedirectUrl = redirectUrl;
  await refresh();
});

// A page that comes back from the back/forward cache comes back as it was
// left. It is left empty, and asks anew.
window.addEventListener('pagehide', () => draw('loading'));
window.addEventListener('pageshow', (event) => { if (event.persisted) refresh(); });

// Tells window.heard what happens to the session, and draws its end. Started by
// the tests that want it.
window.heard = [];
const note = (what, data) => window.heard.push({ what, ...data, when: Date.now() });
window.watch = () => {
  const events = new EventSource('/auth/events');
  events.onopen = () => note('open');
  for (const what of ['expiring', 'extended', 'ended']) {
    events.addEventListener(what, (event) => note(what, JSON.parse(event.data)));
  }
  events.addEventListener('ended', (event) => {
    events.close();
    draw('signed-out', null, JSON.parse(event.data).reason);
  });
};

draw('loading');
refresh();
