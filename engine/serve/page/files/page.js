// What happens when: one recording at a time, from a file or from the microphone.

import { Microphone, explainMicrophone, measureLevel } from "./microphone.js";
import { Player } from "./player.js";
import { RealtimeSession } from "./realtime.js";
import { ServiceError, describeLimits, explain, keepKey, readKey, readSettings, render, translateFile } from "./service.js";
import { Transcript, describeTime, describeWord, readSegment, toResult } from "./transcript.js";

const TRIES = 6; // while the service is busy
const FAR_UP = 150; // pixels from the end of the page

const ids = "key-form key input offer file speak limits model work name progress level stop status error error-text \
error-detail again of result result-title downloads languages warnings segments player audio word";
const ui = Object.fromEntries(ids.split(" ").map((id) => [id, document.getElementById(id)]));

const player = new Player(ui.audio, (seconds) => transcript.showTime(seconds));
const transcript = new Transcript(ui.segments, {
  onPlay: (seconds) => player.playFrom(seconds),
  onWord: (word) => {
    ui.word.textContent = `${word.word}: ${describeWord(word)}`;
    ui.player.hidden = false;
  },
});
let settings = null;
let stop = null; // ends what is going on; null: nothing is
let again = null; // does the last thing once more
let recording = { name: "recording", duration: 0, warnings: [], germanOnly: false };

function say(text) {
  ui.status.textContent = text;
}

function showError(text, detail = "", retry = null) {
  say("");
  ui["error-text"].textContent = text;
  ui["error-detail"].textContent = detail;
  again = retry;
  ui.again.hidden = !retry;
  ui.error.hidden = false;
}

/** From here on a recording is worked on; `onStop` is what the button does. */
function begin(name, label, onStop) {
  const moved = ui.offer.contains(document.activeElement) || ui.error.contains(document.activeElement);
  stop = onStop;
  transcript.clear();
  player.close();
  recording = { name, duration: 0, warnings: [], germanOnly: false };
  ui.word.textContent = "";
  for (const part of [ui.error, ui.offer, ui.result, ui.player, ui.level, ui.warnings]) part.hidden = true;
  ui.work.hidden = ui.progress.hidden = false;
  ui.progress.removeAttribute("value");
  ui.name.textContent = ui.of.textContent = name;
  ui.stop.textContent = label;
  ui.stop.disabled = false;
  ui.downloads.hidden = true;
  if (moved) ui.stop.focus();
}

function end() {
  const moved = ui.work.contains(document.activeElement) || document.activeElement === document.body;
  const { segments } = transcript;
  stop = null;
  ui.work.hidden = true;
  ui.offer.hidden = false;
  ui.input.classList.toggle("done", segments.length > 0);
  ui.downloads.hidden = segments.length === 0;
  ui.warnings.replaceChildren(...recording.warnings.map(listItem));
  ui.warnings.hidden = recording.warnings.length === 0;
  if (moved) (segments.length ? ui["result-title"] : ui.speak).focus();
}

function listItem(text) {
  const item = document.createElement("li");
  item.textContent = text;
  return item;
}

function showResult() {
  const { segments } = transcript;
  ui.result.hidden = segments.length === 0;
  ui.player.hidden = ui.result.hidden || (ui.audio.hidden && !ui.word.textContent);
  ui.result.classList.toggle("german-only", recording.germanOnly);
  for (const option of ui.languages.options) option.disabled = recording.germanOnly && option.value !== "de";
  if (ui.languages.selectedOptions[0]?.disabled) ui.languages.value = "de";
}

function sayDone() {
  const { segments } = transcript;
  const words = segments.reduce((sum, each) => sum + each.words.length, 0);
  say(segments.length ? `Done: ${words} words in ${describeTime(recording.duration)} of audio.` : "No speech was found.");
}

function show(key, content) {
  const segment = readSegment(content);
  transcript.set(key, segment);
  showResult();
  if (player.duration > 0) ui.progress.value = Math.min(1, segment.end / player.duration);
}

async function takeFile(file) {
  if (stop) return;
  const aborted = new AbortController();
  begin(file.name, "Cancel", () => aborted.abort());
  ui.segments.setAttribute("aria-live", "off"); // it may be an hour of speech
  if (settings && file.size > settings.max_upload_bytes) {
    end();
    return showError(explain(new ServiceError(413), settings), `This file has ${Math.ceil(file.size / 2 ** 20)} MB.`);
  }
  player.open(file);
  try {
    const told = { signal: aborted.signal, onSegment: (content) => show(content.id, content) };
    const result = await whileBusy(() => (say("Recognising …"), translateFile(file, told)), aborted.signal);
    recording = { ...recording, ...about(result) };
    transcript.clear(); // what came before may have been divided in another way
    for (const content of result.segments) show(content.id, content);
    sayDone();
  } catch (error) {
    takeError(error, aborted.signal, () => takeFile(file));
  }
  end();
}

function about({ duration, warnings, task }) {
  return { duration, warnings, germanOnly: task === "transcribe" };
}

/** Try again as long as the service says that it is only busy. */
async function whileBusy(work, signal) {
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (error.status !== 503 || !error.retryAfterS || tries === TRIES) throw error;
      const wait = error.retryAfterS * tries;
      say(`${explain(error, settings)} Next try in ${wait} s.`);
      await pause(wait, signal);
    }
  }
}

function pause(seconds, signal) {
  return Promise.race([new Promise((resolve) => setTimeout(resolve, 1000 * seconds)), whenAborted(signal)]);
}

function whenAborted(signal) {
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
}

function takeError(error, signal, retry) {
  if (signal.aborted) return say("Cancelled.");
  const refused = explainMicrophone(error);
  showError(refused || explain(error, settings), refused ? "" : error.message, retry);
  if (error.status !== 401) return undefined;
  ui["key-form"].hidden = false;
  return ui.key.focus();
}

/** Speech: shown while it is spoken, and to be heard again after it. */
async function takeSpeech() {
  if (stop) return;
  const cancelled = new AbortController();
  const microphone = new Microphone((samples) => {
    ui.level.value = measureLevel(samples);
    session?.append(samples);
  });
  let session = null;
  begin("Microphone", "Cancel", () => cancelled.abort());
  ui.segments.setAttribute("aria-live", "polite");
  try {
    say("Opening the microphone …");
    await Promise.race([microphone.open(), whenAborted(cancelled.signal)]);
    const failed = new Promise((_, reject) => (session = openSession(reject)));
    for (const samples of microphone.chunks) session.append(samples);
    await Promise.race([session.opened, failed, whenAborted(cancelled.signal)]);
    await Promise.race([whenStopped(), microphone.unplugged, failed]);
    finishing();
    await microphone.close();
    await Promise.race([session.finish(), failed]);
    recording.duration = microphone.seconds;
    transcript.dropGuesses();
    sayDone();
  } catch (error) {
    takeError(error, cancelled.signal, takeSpeech);
  }
  await microphone.close();
  session?.close();
  endSpeech(microphone, session);
}

function endSpeech(microphone, session) {
  transcript.dropGuesses();
  const { translated = false, warnings = [] } = session ?? {};
  recording = { ...recording, name: "recording", duration: microphone.seconds, warnings, germanOnly: !translated };
  if (microphone.seconds) player.open(microphone.toWav());
  showResult();
  end();
}

/** Listen until the button is pressed. */
function whenStopped() {
  say("Speak German now.");
  ui.level.hidden = false;
  ui.progress.hidden = true;
  ui.stop.textContent = "Stop";
  return new Promise((resolve) => (stop = resolve));
}

function finishing() {
  say("Recognising the rest …");
  ui.level.hidden = true;
  ui.progress.hidden = false;
  ui.stop.disabled = true;
}

function openSession(onFail) {
  const shown = {
    set: (key, segment) => follow(() => transcript.set(key, segment)),
    remove: (key) => follow(() => transcript.remove(key)),
  };
  return new RealtimeSession({ key: readKey(), transcript: shown, onFail });
}

/** Keep the newest row in view, unless somebody reads further up. */
function follow(change) {
  const page = document.documentElement;
  const atEnd = page.scrollTop + page.clientHeight > page.scrollHeight - FAR_UP;
  change();
  showResult();
  if (atEnd) page.scrollTop = page.scrollHeight;
}

async function download(button) {
  const result = toResult(transcript.segments, recording.duration, recording.warnings);
  const languages = ui.languages.value.split(" ");
  button.disabled = true;
  try {
    const blob = await render(result, button.dataset.format, languages);
    const link = document.createElement("a");
    const language = languages.length === 1 ? `.${languages[0]}` : "";
    link.download = `${recording.name.replace(/\.[^.]*$/, "")}${language}.${button.textContent.trim()}`;
    link.href = URL.createObjectURL(blob);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    showError(explain(error, settings), error.message, () => download(button));
  }
  button.disabled = false;
}

function listen() {
  ui.file.addEventListener("change", () => {
    const [file] = ui.file.files;
    if (file) takeFile(file);
    ui.file.value = ""; // so that the same file can be chosen again
  });
  ui.speak.addEventListener("click", takeSpeech);
  ui.stop.addEventListener("click", () => stop?.());
  ui.again.addEventListener("click", () => {
    ui.error.hidden = true;
    again?.();
  });
  ui["key-form"].addEventListener("submit", (event) => event.preventDefault());
  ui.key.addEventListener("input", () => keepKey(ui.key.value.trim()));
  for (const button of ui.downloads.querySelectorAll("button")) button.addEventListener("click", () => download(button));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    ui.input.classList.add("over");
  });
  addEventListener("dragleave", (event) => event.relatedTarget || ui.input.classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    ui.input.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) takeFile(file);
  });
}

async function start() {
  listen();
  ui.key.value = readKey();
  try {
    settings = await readSettings();
  } catch (error) {
    return showError(explain(error), error.message);
  }
  ui.model.textContent = settings.model;
  ui.limits.textContent = describeLimits(settings);
  ui["key-form"].hidden = !settings.needs_key;
  return undefined;
}

start();
