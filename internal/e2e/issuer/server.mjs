// The third-party issuer of the end-to-end tests: panva's oidc-provider, set
// up as a strict deployment would be. One public client, PKCE with S256,
// refresh tokens that rotate and whose reuse ends the whole grant, access
// tokens of seconds, a login page that is a form, and a confirmation page at
// sign-out.
//
// Configuration comes in the environment:
//
//   ISSUER            the issuer identifier, as the browser sees it
//   CLIENT_ID         the one client
//   REDIRECT_URIS     its redirect URIs, separated by spaces
//   POST_LOGOUT_URIS  its post-logout redirect URIs, likewise
//   JWKS              its signing key, a JWK set with the private parts. Made by
//                     the caller: Node 20 can deadlock when it generates a key
//                     and exports it at once
//   ACCESS_TTL        access token life in seconds (5)
//   BEHIND_PROXY      1: believe X-Forwarded-Proto and -Host
//   KEEP_ALL          1: forget nothing before it expires, whoever signs in. Else
//                     the provider's own store keeps the last thousand things
//   BACKCHANNEL       back-channel logout: tokens with the session's ID (sid) or
//                     with the subject alone (sub); without it there is none
//   BACKCHANNEL_URI   the client's https URL for it
//   BACKCHANNEL_AT    host:port where that URL's host is to be found
//
// The first line on stdout is JSON: {"port":…,"control":…}. The control port
// (loopback, never shown to the browser) tells what was issued and how often,
// which is what the tests look for where it must not be. The process ends when
// its stdin does, so that it can't outlive the test that started it.

import * as crypto from 'node:crypto';
import * as http from 'node:http';
import * as https from 'node:https';

if (Number(process.versions.node.split('.')[0]) < 20) {
  console.error(`issuer: Node ${process.versions.node} is too old for oidc-provider, 20 is the least`);
  process.exit(2);
}
// Early releases of Node 20 lack this.
URL.parse ??= (input, base) => {
  try {
    return new URL(input, base);
  } catch {
    return null;
  }
};

const { default: Provider } = await import('oidc-provider');
const { default: MemoryAdapter } = await import('./node_modules/oidc-provider/lib/adapters/memory_adapter.js');

const env = (name, fallback) => {
  const value = process.env[name] ?? fallback;
  if (value === undefined) {
    console.error(`issuer: ${name} is not set`);
    process.exit(2);
  }
  return value;
};
const list = (s) => s.split(' ').filter(Boolean);

const issuer = env('ISSUER');
const clientID = env('CLIENT_ID');
let accessTTL = Number(env('ACCESS_TTL', '5'));

const backchannel = env('BACKCHANNEL', '');
const backchannelURI = backchannel ? env('BACKCHANNEL_URI') : undefined;
const [backchannelHost, backchannelPort] = backchannel ? env('BACKCHANNEL_AT').split(':') : [];

// deliver is fetch for the client's URL, whose host exists in this test only.
// The provider's own way refuses loopback addresses. The host's certificate is
// verified all the same.
const deliver = (url, { method, headers, body, signal }) => new Promise((resolve, reject) => {
  const { host, hostname, pathname } = new URL(url);
  if (url !== backchannelURI) throw new Error(`${url} is outside this test`);
  https.request({
    host: backchannelHost,
    port: backchannelPort,
    servername: hostname,
    path: pathname,
    method,
    headers: { ...Object.fromEntries(headers), host },
    signal,
  }, (res) => {
    res.resume();
    res.on('end', () => resolve(new Response(null, { status: res.statusCode })));
  }).on('error', reject).end(String(body));
});

const log = (event, fields) => console.error(JSON.stringify({ event, ...fields }));

// What happened, for the control port.
const fresh = () => ({
  token: {}, // grant type -> successful token responses
  tokenErrors: [], // {grant, error, description}
  refreshes: [], // {account, via, began, ended, error}: X-Via of the request, times in ms
  issued: [], // {kind: access | refresh | id | code, value, account, at}, the last two for tokens
  authorizations: 0, // responses sent to the redirect URI
  interactions: 0, // times that the login page was needed
  revocations: 0, // requests to the revocation endpoint
  grantsRevoked: 0, // grants that ended, for whatever reason
  endSessions: 0, // sign-outs confirmed
});
let stats = fresh();

const account = (name) => ({
  accountId: name,
  claims: () => ({
    sub: name,
    name: `${name[0].toUpperCase()}${name.slice(1)} Example`,
    preferred_username: name,
    email: `${name}@example.com`,
    email_verified: true,
    groups: name === 'alice' ? ['Admin', 'Staff'] : ['Staff'],
  }),
});

const escapeHTML = (s) => String(s).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const page = (title, body) => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escapeHTML(title)}</title>
<style>body{font:16px/1.5 sans-serif;max-width:28rem;margin:4rem auto;padding:0 1rem}
input,button{font:inherit;padding:.4rem .8rem}</style>
<h1>${escapeHTML(title)}</h1>
${body}
</html>
`;

// everything is a store without a bound, for as long as a test takes.
class Everything extends Map {
  get(key) {
    return super.get(key)?.value;
  }

  set(key, value) {
    return super.set(key, { value });
  }
}
const everything = new Everything();

const provider = new Provider(issuer, {
  ...(env('KEEP_ALL', '') === '1' && { adapter: (model) => new MemoryAdapter(model, everything) }),
  clients: [{
    client_id: clientID,
    token_endpoint_auth_method: 'none',
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    redirect_uris: list(env('REDIRECT_URIS')),
    post_logout_redirect_uris: list(env('POST_LOGOUT_URIS', '')),
    ...(backchannel && {
      backchannel_logout_uri: backchannelURI,
      backchannel_logout_session_required: backchannel === 'sid',
    }),
  }],
  jwks: JSON.parse(env('JWKS')),
  cookies: { keys: [crypto.randomBytes(32).toString('base64url')] },
  pkce: { required: () => true },
  rotateRefreshToken: true,
  // No offline_access, hence no consent prompt, and still a refresh token.
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  findAccount: async (_ctx, id) => account(id),
  claims: {
    openid: ['sub', 'groups'],
    profile: ['name', 'preferred_username'],
    email: ['email', 'email_verified'],
  },
  conformIdTokenClaims: false, // claims in the ID token, as Agglestone has them
  // Consent is given by being asked: what is missing from the grant is added.
  loadExistingGrant: async (ctx) => {
    const { client, session, params } = ctx.oidc;
    const id = ctx.oidc.result?.consent?.grantId ?? session.grantIdFor(client.clientId);
    const grant = (id && await provider.Grant.find(id))
      || new provider.Grant({ accountId: session.accountId, clientId: client.clientId });
    grant.addOIDCScope(params.scope);
    await grant.save();
    return grant;
  },
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  ttl: {
    AccessToken: () => accessTTL,
    AuthorizationCode: 60,
    Grant: 3600,
    IdToken: 3600,
    Interaction: 600,
    RefreshToken: 3600,
    Session: 3600,
  },
  fetch: deliver,
  features: {
    backchannelLogout: { enabled: backchannel !== '' },
    devInteractions: { enabled: false },
    introspection: { enabled: true },
    revocation: { enabled: true },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: async (ctx, form) => {
        ctx.body = page('Sign out?', `<p>Do you want to sign out of ${escapeHTML(ctx.host)}?</p>
${form}
<button id="confirm" autofocus type="submit" form="op.logoutForm" value="yes" name="logout">Yes, sign me out</button>
<button id="stay" type="submit" form="op.logoutForm">No, stay signed in</button>`);
      },
      postLogoutSuccessSource: async (ctx) => {
        ctx.body = page('Signed out', '<p id="issuer-signed-out">You are signed out here.</p>');
      },
    },
  },
  renderError: async (ctx, out) => {
    log('error_page', out);
    ctx.type = 'html';
    ctx.body = page('Error', `<pre id="issuer-error">${escapeHTML(JSON.stringify(out))}</pre>`);
  },
});
provider.proxy = env('BEHIND_PROXY', '') === '1';

provider.on('server_error', (_ctx, err) => log('server_error', { err: String(err?.stack ?? err) }));
provider.on('authorization.error', (_ctx, err) => log('authorization_error', { err: String(err) }));
provider.on('backchannel.error', (_ctx, err) => log('backchannel_error', { err: String(err?.stack ?? err) }));
provider.on('grant.revoked', () => { stats.grantsRevoked += 1; });
provider.on('end_session.success', () => { stats.endSessions += 1; });
provider.on('authorization.success', (_ctx, out) => {
  stats.authorizations += 1;
  if (out?.code) stats.issued.push({ kind: 'code', value: out.code });
});

provider.use(async (ctx, next) => {
  const began = Date.now();
  await next();
  if (ctx.oidc?.route === 'token' && ctx.oidc.params?.grant_type === 'refresh_token') {
    stats.refreshes.push({
      account: ctx.oidc.entities.Account?.accountId ?? '',
      via: ctx.get('x-via'),
      began,
      ended: Date.now(),
      error: ctx.status === 200 ? '' : `${ctx.body?.error}`,
    });
  }
  const grant = ctx.oidc?.params?.grant_type ?? 'none';
  switch (ctx.oidc?.route) {
    case 'token':
      if (ctx.status !== 200) {
        const { error, error_description: description } = ctx.body ?? {};
        stats.tokenErrors.push({ grant, error, description });
        log('token_error', { grant, error, description });
        break;
      }
      stats.token[grant] = (stats.token[grant] ?? 0) + 1;
      for (const kind of ['access', 'refresh', 'id']) {
        const value = ctx.body[`${kind}_token`];
        const account = ctx.oidc.entities.Account?.accountId;
        if (value) stats.issued.push({ kind, value, account, at: Date.now() });
      }
      break;
    case 'revocation':
      stats.revocations += 1;
      break;
    default:
  }
});

async function interaction(req, res) {
  const details = await provider.interactionDetails(req, res);
  if (req.method === 'POST') {
    let body = '';
    for await (const chunk of req) {
      body += chunk;
      if (body.length > 4096) throw new Error('form too large');
    }
    const login = new URLSearchParams(body).get('login') ?? '';
    if (!/^[a-z]{1,32}$/.test(login)) throw new Error('login must be a lower-case word');
    await provider.interactionFinished(req, res, { login: { accountId: login } });
    return;
  }
  stats.interactions += 1;
  res.writeHead(200, { 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' });
  res.end(page('Sign in at the issuer', `<form id="login-form" method="post" action="/interaction/${escapeHTML(details.uid)}">
<p><label>Login name <input name="login" autocomplete="off" autofocus value="${escapeHTML(details.params.login_hint ?? '')}"></label></p>
<p><button id="sign-in" type="submit">Sign in</button></p>
</form>
<p>to ${escapeHTML(details.params.client_id)} (${escapeHTML(details.prompt.name)})</p>`));
}

const callback = provider.callback();
const server = http.createServer((req, res) => {
  if (!req.url.startsWith('/interaction/')) {
    callback(req, res);
    return;
  }
  interaction(req, res).catch((err) => {
    log('interaction_error', { err: String(err?.stack ?? err) });
    if (!res.headersSent) res.writeHead(400, { 'content-type': 'text/html; charset=utf-8' });
    res.end(page('Error', `<pre id="issuer-error">${escapeHTML(err?.message)}</pre>`));
  });
});

const control = http.createServer((req, res) => {
  const url = new URL(req.url, 'http://control');
  switch (`${req.method} ${url.pathname}`) {
    case 'GET /stats':
      break;
    case 'POST /reset':
      stats = { ...fresh(), issued: stats.issued }; // what was issued stays secret for good
      break;
    case 'POST /ttl':
      accessTTL = Number(url.searchParams.get('seconds'));
      break;
    default:
      res.writeHead(404).end();
      return;
  }
  res.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ ...stats, accessTTL }));
});

const listen = (s) => new Promise((resolve, reject) => {
  s.once('error', reject);
  s.listen(0, '127.0.0.1', () => resolve(s.address().port));
});
const [port, controlPort] = await Promise.all([listen(server), listen(control)]);
console.log(JSON.stringify({ port, control: controlPort }));

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
process.on('SIGTERM', () => process.exit(0));
