// Requests to the server this page came from, with the key if one is needed.

const STORE = "bernoulli-key";
const dialog = document.getElementById("key-dialog");
const form = document.getElementById("key-form");
const input = document.getElementById("key-input");
const reason = document.getElementById("key-reason");
const forget = document.getElementById("forget-key");

/** The server refused, or could not be reached; the message is for the person. */
export class Refused extends Error {
  constructor(message, { status = 0, errors = [] } = {}) {
    super(message);
    this.status = status;
    this.errors = errors;
  }
}

export const hasKey = () => sessionStorage.getItem(STORE) !== null;

export function get(path) {
  return request(path, {});
}

export function post(path, body) {
  return request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
}

export function upload(path, file) {
  const body = new FormData();
  body.append("file", file);
  return request(path, { method: "POST", body });
}

async function request(path, options) {
  for (;;) {
    const key = sessionStorage.getItem(STORE);
    const headers = { Accept: "application/json", ...options.headers };
    if (key !== null) headers.Authorization = `Bearer ${key}`;
    let answer;
    try {
      answer = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch {
      throw new Refused("The server cannot be reached; this page tries again by itself.");
    }
    if (answer.status === 401) {
      await askForKey(key);
      continue;
    }
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    throw await refusal(answer);
  }
}

async function refusal(answer) {
  try {
    const problem = await answer.json();
    return new Refused(problem.detail, { status: answer.status, errors: problem.errors ?? [] });
  } catch {
    return new Refused(`The server answered ${answer.status}.`, { status: answer.status });
  }
}

let asking = null;

/** Ask once however many requests wait; `refused` is the key that was just not taken. */
function askForKey(refused) {
  if (sessionStorage.getItem(STORE) !== refused) return Promise.resolve(); // given meanwhile
  if (refused !== null) reason.textContent = "The server does not take this key. Try another one.";
  asking ??= new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(STORE, input.value.trim());
      input.value = "";
      forget.hidden = false;
      asking = null;
      dialog.close();
      resolve();
    };
    dialog.onclose = () => asking && dialog.showModal(); // without a key there is nothing to see
    dialog.showModal();
  });
  return asking;
}

forget.hidden = !hasKey();
forget.addEventListener("click", () => {
  sessionStorage.removeItem(STORE);
  location.reload();
});
