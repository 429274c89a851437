// The page: it asks who is signed in, and draws the answer.
import { bffFetch, login, logout, session, watch } from "./bff.js";

const $ = (id) => document.getElementById(id);
let now = null; // what the server said last: the session, or that there is none
let skew = 0;   // the server's clock less ours, in milliseconds
let unwatch = null; // ends the watch over the session, if there is one

function draw(s) {
  now = s;
  if (s?.now) skew = Date.parse(s.now) - Date.now();
  const here = s?.authenticated === true;
  if (here) unwatch ??= watch(told);
  else {
    unwatch?.();
    unwatch = null;
    $("notice").hidden = true;
  }
  document.body.dataset.state = s ? (here ? "in" : "out") : "unknown";
  $("reason").textContent = !s || here || s.reason === "no_session" ? "" : "Your last session is over: " + s.reason;
  $("name").textContent = here ? s.claims.name ?? s.sub : "";
  $("email").textContent = here ? s.claims.email ?? "" : "";
  $("face").textContent = $("name").textContent.slice(0, 1);
  $("groups").replaceChildren(...(here ? s.groups : []).map((g) => element("li", g)));
  $("cookie").textContent = JSON.stringify(document.cookie);
  if (!here) $("api").replaceChildren();
  tick();
}

// told hears what becomes of the session by other tabs' doing, by nobody's, or
// at the issuer.
function told(what, event) {
  if (what === "ended") {
    draw({ authenticated: false, ...event });
    return;
  }
  $("notice").hidden = what !== "expiring";
  $("keep").hidden = event.reason !== "session_idle"; // no request moves the other end
  if (what === "extended" && now?.authenticated) Object.assign(now.session, event);
  tick();
}

// The three clocks, against the time-outs in main.go. Two are the session's.
// The access token is on the server, which gets a new one when a request needs
// it.
function tick() {
  if (!now?.authenticated) return;
  const at = Date.now() + skew;
  const { createdAt, idleExpiresAt, expiresAt } = now.session;
  clock("idle", idleExpiresAt, 5 * 60, at);
  clock("end", expiresAt, (Date.parse(expiresAt) - Date.parse(createdAt)) / 1000, at);
  const token = clock("token", now.accessToken.expiresAt, 60, at);
  if (token === 0) $("token").textContent = "renewed when next needed";
  if (Date.parse(idleExpiresAt) + 1000 < at) { // the server has the last word
    now = null;
    refresh();
  }
}

function clock(id, until, whole, at) {
  const left = Math.max(0, Math.ceil((Date.parse(until) - at) / 1000));
  const [h, m, s] = [left / 3600, (left / 60) % 60, left % 60].map(Math.floor);
  $(id).textContent = (h ? [h, String(m).padStart(2, "0")] : [m]).concat(String(s).padStart(2, "0")).join(":");
  $(id + "-bar").value = Math.min(1, left / whole);
  return left;
}

async function refresh() {
  try {
    draw(await session());
    $("outage").textContent = "";
  } catch (err) { // an outage signs nobody out: what is shown stays
    $("outage").textContent = `The server can't tell at the moment who is signed in (${err.message}).`;
  }
}

// ask fetches, shows what came of it, and then what became of the session: a
// request may extend it, and renew the token.
async function ask(url, init, show) {
  say("");
  try {
    const res = await bffFetch(url, init);
    const body = await res.json();
    if (res.ok) show(body);
    else say(`${res.status} from ${res.headers.has("BFF-Reason") ? "this server" : "the API"}: ${body.detail ?? body.title}`);
  } catch {
    say("There was no answer.");
  }
  await refresh();
}

const callUsers = () => ask("/api/users", {}, ({ data }) => {
  const row = (cell, ...texts) => element("tr", ...texts.map((t) => element(cell, t)));
  $("api").replaceChildren(element("table",
    element("thead", row("th", "Name", "Email", "Last sign-in")),
    element("tbody", ...data.map((u) => row("td", u.displayName, u.email, u.lastLoggedIn ? new Date(u.lastLoggedIn).toLocaleTimeString() : "–")))));
});

const stay = () => ask("/auth/session", { method: "POST" }, () => say("Extended."));

function element(tag, ...children) {
  const e = document.createElement(tag);
  e.append(...children); // as text, whatever is in it
  return e;
}

const say = (text) => { $("message").textContent = text; };

$("login").onclick = () => login();
$("logout").onclick = () => logout().catch((err) => say(`Not signed out (${err.message}).`));
$("users").onclick = callUsers;
$("stay").onclick = $("keep").onclick = stay;

// Others may have signed out, or in, while this page was out of sight. One that
// comes back from the browser's cache comes back as it was left: empty.
document.onvisibilitychange = () => { if (!document.hidden) refresh(); };
window.onpagehide = () => draw(null);
window.onpageshow = (event) => { if (event.persisted) refresh(); };

history.replaceState(null, "", location.pathname); // after a sign-out there is a ?state=
setInterval(tick, 1000);
refresh();
