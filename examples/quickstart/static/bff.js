// The frontend's half of the library, as README.md has it in TypeScript.
export const login = (url = "/login", to = location.pathname + location.search + location.hash) =>
  location.assign(url + (url.includes("?") ? "&" : "?") + "returnUrl=" + encodeURIComponent(to));
export async function bffFetch(url, init = {}) {
  const headers = new Headers(init.headers); headers.set("X-CSRF", "1");
  const res = await fetch(url, { ...init, headers });
  const why = res.headers.get("BFF-Reason");
  if (res.status === 401 && why && why !== "upstream_unauthorized" && why !== "signed_out") {
    const problem = await res.clone().json().catch(() => ({})); // a HEAD has no body
    login(problem.loginUrl); // for a step-up it says what is missing
  }
  return res;
}
export const session = async (init = {}) => {
  const res = await bffFetch("/auth/session?anonymous=200", init);
  if (!res.ok) throw new Error(res.headers.get("BFF-Reason") ?? String(res.status)); // 503: keep the page, try later
  return res.json();
};
export async function logout() {
  const res = await bffFetch("/logout", { method: "POST", headers: { Accept: "application/json" } });
  if (!res.ok) throw new Error(res.headers.get("BFF-Reason") ?? String(res.status)); // not signed out
  location.assign((await res.json()).redirectUrl);
}
export function watch(tell) { // optional: hear of the session's end; returns how to stop
  let events, stopped = false;
  const stop = () => { stopped = true; events.close(); };
  const ended = (event) => { stop(); tell("ended", event); };
  const open = () => {
    if (stopped) return;
    events = new EventSource("/auth/events");
    for (const what of ["expiring", "extended"]) events.addEventListener(what, (e) => tell(what, JSON.parse(e.data)));
    events.addEventListener("ended", (e) => ended(JSON.parse(e.data)));
    events.onerror = async () => { // what was cut off comes back by itself; what was refused does not
      if (events.readyState !== EventSource.CLOSED) return;
      const s = await session({ headers: { "BFF-Passive": "1" } }).catch(() => null);
      if (stopped) return;
      if (s && !s.authenticated) ended(s); else setTimeout(open, 10_000);
    };
  };
  open();
  return stop;
}
