// A realtime session: samples out over a WebSocket, and its events into a transcript.

import { ServiceError } from "./service.js";
import { makeSegment } from "./transcript.js";

const PATH = "v1/realtime?intent=transcription";
const LAST_S = 60; // for what was said to be recognised after the end
const STATUS = { invalid_api_key: 401, BusyError: 503, ShuttingDownError: 503 };
const ITEM = "conversation.item.input_audio_";
const SESSION = {
  type: "transcription",
  audio: { input: { translation: { language: "en" } } },
  include: ["item.input_audio_transcription.words", "item.input_audio_transcription.partials"],
};

export class RealtimeSession {
  /** @param {{key: string, transcript: object, onFail: function(Error)}} how onFail is told of what ends it early */
  constructor({ key, transcript, onFail }) {
    this.items = new Items(transcript);
    this.onFail = onFail;
    this.finishing = false;
    this.waiting = []; // samples, until the session is as it should be
    const url = new URL(PATH, document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = openSocket(url, key);
    this.socket.onmessage = ({ data }) => this.#take(JSON.parse(data));
    this.socket.onclose = () => this.#fail(new ServiceError(0, { code: this.waiting ? "NotOpened" : "EndedEarly" }));
    this.opened = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.opened.catch(() => {});
  }

  /** @param {Int16Array} samples at 24 kHz */
  append(samples) {
    if (this.waiting) return void this.waiting.push(samples);
    if (this.socket.readyState !== WebSocket.OPEN) return undefined;
    const audio = btoa(String.fromCharCode(...new Uint8Array(samples.buffer)));
    return this.#send({ type: "input_audio_buffer.append", audio });
  }

  #begin() {
    const { waiting } = this;
    this.waiting = null;
    for (const samples of waiting ?? []) this.append(samples);
    this.resolve();
  }

  /** No more is said: resolves when all of it has been recognised. */
  async finish() {
    this.finishing = true;
    this.#send({ type: "input_audio_buffer.commit" });
    this.#send({ type: "session.update", session: { type: "transcription" } }); // its answer comes after all items are known
    let timer = 0;
    const tooLate = new Promise((resolve) => (timer = setTimeout(resolve, 1000 * LAST_S)));
    await Promise.race([this.items.finished, tooLate]);
    clearTimeout(timer);
    this.close();
  }

  /** Whether English comes as well. */
  get translated() {
    return this.items.translated;
  }

  /** What is missing in the English so far, a sentence each. */
  get warnings() {
    return this.items.warnings;
  }

  close() {
    this.socket.onclose = this.socket.onmessage = null;
    this.socket.close();
    this.items.end();
  }

  #send(event) {
    this.socket.send(JSON.stringify(event));
  }

  #take(event) {
    if (event.type === "session.created") this.#send({ type: "session.update", session: SESSION });
    else if (event.type === "session.updated") this.finishing ? this.items.allKnown() : this.#begin();
    else if (event.type === "error") this.#takeError(event.error);
    else this.items.take(event);
  }

  #takeError(error) {
    if (error.code === "input_audio_buffer_commit_empty") return undefined; // nothing was said since the last item
    if (error.code === "ModelCapabilityError") {
      this.items.translated = false;
      return this.#send({ type: "session.update", session: { ...SESSION, audio: { input: { translation: null } } } });
    }
    return this.#fail(new ServiceError(STATUS[error.code] ?? 0, error));
  }

  #fail(error) {
    this.close();
    this.reject(error);
    this.onFail(error);
  }
}

function openSocket(url, key) {
  try {
    return new WebSocket(url, key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"]);
  } catch (error) {
    if (error.name !== "SyntaxError") throw error;
    throw new ServiceError(0, { code: "KeyNotSendable" });
  }
}

/** Utterances under way. What is final is shown a stretch a row, with its English; behind it the guess. */
class Items {
  constructor(transcript) {
    this.transcript = transcript;
    this.items = new Map();
    this.translated = true;
    this.complete = false; // no more items will come
    this.finished = new Promise((resolve) => (this.end = resolve));
  }

  get warnings() {
    return [...this.items.values()].flatMap((item) => item.warnings);
  }

  allKnown() {
    this.complete = true;
    this.#endIfFinished();
  }

  take(event) {
    const kind = event.type.startsWith(ITEM) ? event.type.slice(ITEM.length) : event.type;
    const item = event.item_id && this.#item(event.item_id);
    if (kind === "input_audio_buffer.speech_started") item.start = event.audio_start_ms / 1000;
    else if (kind === "transcription.partial") this.#guess(item, event.transcript);
    else if (kind === "transcription.delta") this.#add(item, event.delta.trim());
    else if (kind === "translation.delta") this.#translate(item, event);
    else if (kind === "transcription.completed") this.#complete(item, event);
    else if (kind === "transcription.failed" || kind === "translation.completed") this.#finish(item);
    this.#endIfFinished();
  }

  #item(id) {
    if (!this.items.has(id)) this.items.set(id, { id, start: NaN, german: [], english: [], warnings: [], finished: false });
    return this.items.get(id);
  }

  #guess(item, text) {
    const key = `${item.id} guess`;
    if (text) this.transcript.set(key, makeSegment({ german: text, start: item.german.length ? NaN : item.start, pending: true }));
    else this.transcript.remove(key);
  }

  #add(item, text) {
    this.#guess(item, "");
    item.german.push(text);
    this.#show(item, item.german.length - 1, []);
  }

  #translate(item, { delta, warnings = [] }) {
    item.english.push(delta.trim());
    item.warnings.push(...warnings);
    const index = item.english.length - 1;
    if (index < item.german.length) this.#show(item, index, item.words?.[index] ?? []);
  }

  #complete(item, { transcript, words = [] }) {
    this.#guess(item, "");
    item.finished = !this.translated;
    const counts = item.german.map((text) => text.split(" ").length);
    if (item.german.join(" ") !== transcript || counts.reduce((a, b) => a + b, 0) !== words.length) return;
    let at = 0;
    item.words = counts.map((count) => words.slice(at, (at += count)));
    item.words.forEach((part, index) => this.#show(item, index, part));
  }

  #finish(item) {
    item.finished = true;
    this.#guess(item, "");
  }

  #show(item, index, words) {
    const mean = words.reduce((sum, word) => sum + word.probability, 0) / (words.length || 1);
    const segment = makeSegment({
      german: item.german[index],
      english: item.english[index] ?? null,
      words,
      confidence: mean,
      start: words[0]?.start ?? (index ? NaN : item.start),
      end: words.at(-1)?.end ?? NaN,
    });
    this.transcript.set(`${item.id} ${index}`, segment);
  }

  #endIfFinished() {
    if (this.complete && [...this.items.values()].every((item) => item.finished)) this.end();
  }
}
