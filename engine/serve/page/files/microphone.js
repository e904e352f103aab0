// The microphone: 16-bit samples at 24 kHz as they come, and a WAV of all of them in the end.

export const RATE = 24000;

// What browsers take for noise and echo are parts of words as well; the recogniser follows the noise by itself.
const HEARING = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };

export class Microphone {
  /** @param {function(Int16Array)} onSamples gets a tenth of a second at a time */
  constructor(onSamples) {
    this.onSamples = onSamples;
    this.chunks = [];
    this.unplugged = new Promise((resolve) => (this.unplug = resolve));
  }

  /** Ask for it and listen. Throws what getUserMedia throws, or an InsecureError where a page may not even ask. */
  async open() {
    if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
      throw new DOMException("no microphone for pages of this origin", "InsecureError");
    }
    const stream = await navigator.mediaDevices.getUserMedia({ audio: HEARING });
    if (this.closed) return stopTracks(stream); // nobody waits for it any more
    this.stream = stream;
    for (const track of stream.getTracks()) track.onended = this.unplug;
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("page/capture.js");
    this.node = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
    this.node.port.onmessage = ({ data }) => data.samples && this.#take(data.samples);
    this.context.createMediaStreamSource(this.stream).connect(this.node);
    return this.context.resume();
  }

  /** Stop listening; resolves when the last samples were handed on. */
  async close() {
    this.closed = true;
    if (this.node) {
      const ended = new Promise((resolve) => {
        this.node.port.onmessage = ({ data }) => (data.samples ? this.#take(data.samples) : resolve());
      });
      this.node.port.postMessage("end");
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 1000))]);
    }
    if (this.stream) stopTracks(this.stream);
    await this.context?.close();
    this.node = this.context = this.stream = null;
  }

  get seconds() {
    return this.chunks.reduce((sum, chunk) => sum + chunk.length, 0) / RATE;
  }

  /** All that was heard. */
  toWav() {
    const bytes = 2 * this.chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    const head = new DataView(new ArrayBuffer(44));
    const write = (at, text) => [...text].forEach((letter, i) => head.setUint8(at + i, letter.charCodeAt(0)));
    write(0, "RIFF");
    head.setUint32(4, 36 + bytes, true);
    write(8, "WAVEfmt ");
    head.setUint32(16, 16, true);
    head.setUint16(20, 1, true); // PCM
    head.setUint16(22, 1, true); // channels
    head.setUint32(24, RATE, true);
    head.setUint32(28, 2 * RATE, true);
    head.setUint16(32, 2, true);
    head.setUint16(34, 16, true);
    write(36, "data");
    head.setUint32(40, bytes, true);
    return new Blob([head, ...this.chunks], { type: "audio/wav" });
  }

  #take(samples) {
    this.chunks.push(samples);
    this.onSamples(samples);
  }
}

function stopTracks(stream) {
  for (const track of stream.getTracks()) track.stop();
}

/** How loud samples are: 0 to 1, from -60 dB to full scale. */
export function measureLevel(samples) {
  const power = samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length / 32768 ** 2;
  return Math.max(0, Math.min(1, 1 + Math.log10(power + 1e-9) / 6));
}

/** What a person can do where the microphone cannot be used; empty for other errors. */
export function explainMicrophone(error) {
  if (error.name === "NotAllowedError") return "The microphone was refused. Allow it for this page in the browser, then speak again.";
  if (error.name === "NotFoundError") return "No microphone was found. Connect one, or choose a file.";
  if (error.name === "NotReadableError") return "The microphone cannot be opened. Another program may be using it.";
  if (error.name === "InsecureError") return "A browser gives the microphone only to pages over https or on localhost.";
  return "";
}
