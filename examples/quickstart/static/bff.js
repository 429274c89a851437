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
export const session = async () => {
  const res = await bffFetch("/auth/session?anonymous=200");
  if (!res.ok) throw new Error(res.headers.get("BFF-Reason") ?? String(res.status)); // 503: keep the page, try later
  return res.json();
};
export async function logout() {
  const res = await bffFetch("/logout", { method: "POST", headers: { Accept: "application/json" } });
  if (!res.ok) throw new Error(res.headers.get("BFF-Reason") ?? String(res.status)); // not signed out
  location.assign((await res.json()).redirectUrl);
}
