/** Requests to the server, with the token that the user gave. */

const TIMEOUT = 10_000; // milliseconds to wait for a response
const SLOWEST = 500; // bytes per millisecond of an upload that is waited for
const RETRY = 2; // seconds until the next try after a failure

/**
 * An error; `again`: seconds until the next try; `access`: whether a token is needed;
 * `status`: that of the response.
 */
export function problem(message, more) {
  return Object.assign(new Error(message), more);
}

export async function fetched(address, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const signal = AbortSignal.timeout(TIMEOUT + (options.body?.size ?? 0) / SLOWEST);
  const response = await fetch(address, { ...options, headers, signal }).catch(() => {
    throw problem("The server cannot be reached. Retrying…", { again: RETRY });
  });
  const answer = await response.json().catch(() => ({})); // a proxy may send HTML
  if (response.ok) return answer;
  throw refusal(response, answer.error, token);
}

function refusal({ status, headers }, error, token) {
  if (status === 401) {
    const message = token ? "This token is not valid." : "The server requires a token.";
    return problem(message, { status, access: true });
  }
  const passing = [502, 503, 504].includes(status) ? RETRY : 0;
  const again = Number(headers.get("Retry-After")) || passing;
  const what = error ?? `status ${status}`;
  return problem(`The server reported an error: ${what}`, { status, again });
}
