// Requests to the service.
const KINDS = {400: "unreadable", 408: "slow", 413: "large", 415: "unreadable", 500: "failed", 503: "busy", 507: "full"};
const TRIES = 5;

// `word` is one of words.js; `message` is what the server says, in English.
export class Refusal extends Error {
  constructor(word, message = "") {
    super(message);
    this.word = word;
  }
}

export const countFrame = blob => post("count", blob);
export const keepCorrection = (blob, count) => post(`corrections?count=${encodeURIComponent(count)}`, blob);
export const describeModel = () => fetch("model").then(response => response.json());

// Waits and tries again while the server is busy.
async function post(path, blob) {
  const headers = {"Content-Type": blob.type.startsWith("image/") ? blob.type : "application/octet-stream"};
  for (let tries = 1; ; tries++) {
    const response = await fetch(path, {method: "POST", body: blob, headers}).catch(() => {
      throw new Refusal("offline");
    });
    if (response.status === 503 && tries < TRIES) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      await new Promise(resolve => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    const body = await response.json().catch(() => ({}));
    if (response.ok) return body;
    throw new Refusal(KINDS[response.status] ?? "refused", String(body.detail ?? response.status));
  }
}
