// The service over HTTP: a file in, segments out as they come; results in other formats; what went wrong, in words.

const KEY = "speech-engine-key";
const FORMATS = "wav, flac, ogg, opus and mp3";

/** An answer that is no result. */
export class ServiceError extends Error {
  constructor(status, { message = "", code = null } = {}, retryAfterS = 0) {
    super(message);
    Object.assign(this, { status, code, retryAfterS });
  }
}

export function readKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function keepKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** The service's name, whether it wants a key, and its limits. */
export async function readSettings() {
  return (await ask("page/settings.json", {})).json();
}

/**
 * Transcribe and translate a recording.
 * @param {File} file
 * @param {{signal: AbortSignal, onSegment: function(object)}} how onSegment gets each segment that is new or has changed
 * @returns {Promise<object>} a verbose_json: of a transcript where the model cannot translate
 */
export async function translateFile(file, { signal, onSegment }) {
  try {
    const answer = await send("v1/audio/translations", file, { stream: "true" }, signal);
    return await readStream(answer, onSegment);
  } catch (error) {
    if (error.code !== "ModelCapabilityError") throw error;
  }
  return (await send("v1/audio/transcriptions", file, {}, signal)).json();
}

/** A result in another format, as a Blob. */
export async function render(result, format, languages) {
  const form = new FormData();
  form.set("file", new Blob([JSON.stringify(result)], { type: "application/json" }), "result.json");
  form.set("response_format", format);
  for (const language of languages) form.append("languages[]", language);
  return (await ask("v1/audio/renderings", { method: "POST", body: form })).blob();
}

function send(path, file, fields, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries({ ...fields, response_format: "verbose_json" })) form.set(name, value);
  for (const each of ["segment", "word"]) form.append("timestamp_granularities[]", each);
  form.set("file", file, "recording"); // its name is nobody's business
  return ask(path, { method: "POST", body: form, signal });
}

async function ask(path, options) {
  const key = readKey();
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const content = await answer.json().catch(() => ({}));
  throw new ServiceError(answer.status, content.error ?? {}, Number(answer.headers.get("Retry-After")) || 0);
}

async function readStream(answer, onSegment) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new ServiceError(0, { message: "the answer ended early", code: "EndedEarly" });
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const event of blocks.map(parseBlock)) {
      if (event?.type === "transcript.text.segment") onSegment(event);
      if (event?.type === "transcript.text.done") return event;
      if (event?.type === "error") throw new ServiceError(event.error.type === "server_error" ? 500 : 400, event.error);
    }
  }
}

function parseBlock(block) {
  const line = block.split("\n").find((each) => each.startsWith("data: "));
  return line && JSON.parse(line.slice(6));
}

const STATUSES = {
  401: "The API key is missing or wrong.",
  408: "Sending took too long. A smaller file may work.",
  415: `The service cannot read this kind of file. It reads ${FORMATS}.`,
  503: "The service is busy.",
  504: "The service did not finish in time. A shorter recording may work.",
};
const CODES = {
  EndedEarly: "The connection was cut before the end.",
  KeyNotSendable: "This API key holds characters that a browser cannot send with a microphone. Choose a file.",
  NotOpened: "No live connection to the service could be opened. Choose a file instead.",
  ShuttingDownError: "The service is being restarted.",
  idle_timeout: "The service ended the session: nothing was sent for too long.",
  origin_not_allowed: "The service takes no speech from pages of this address.",
  session_expired: "The service ended the session: it was too long. What was said before is below.",
};

/** What a person can do about an error. */
export function explain(error, settings) {
  if (!(error instanceof ServiceError)) return "The service cannot be reached. Is it running?";
  if (error.status === 413) return `The recording is too long or too large. ${describeLimits(settings)}`;
  const known = CODES[error.code] ?? STATUSES[error.status];
  if (known) return known;
  if (error.code?.startsWith("Audio")) return `This file cannot be used as a recording. The service reads ${FORMATS}.`;
  return "The service could not do this.";
}

/** The limits in words; empty where they are not known. */
export function describeLimits(settings) {
  if (!settings) return "";
  const minutes = Math.floor(settings.max_duration_s / 60);
  const length = minutes ? `${minutes} min` : `${settings.max_duration_s} s`;
  return `Up to ${Math.floor(settings.max_upload_bytes / 2 ** 20)} MB and ${length}.`;
}
