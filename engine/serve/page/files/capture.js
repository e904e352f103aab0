// In the audio thread: what the microphone hears, mixed to one channel, at 24 kHz, in 16 bits.

import { Resampler } from "./resampler.js";

const RATE = 24000;
const CHUNK = RATE / 10;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(sampleRate, RATE);
    this.chunk = new Int16Array(CHUNK);
    this.filled = 0;
    this.ended = false;
    this.port.onmessage = () => this.#end();
  }

  process([channels]) {
    if (this.ended) return false;
    if (channels.length) this.#take(this.resampler.push(mix(channels)));
    return true;
  }

  #take(samples) {
    for (const sample of samples) {
      this.chunk[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(32768 * sample)));
      if (this.filled === CHUNK) this.#send();
    }
  }

  #send() {
    const samples = this.chunk.slice(0, this.filled);
    this.filled = 0;
    this.port.postMessage({ samples }, [samples.buffer]);
  }

  /** The rest, and a message that nothing follows. */
  #end() {
    if (this.ended) return;
    this.ended = true;
    this.#take(this.resampler.flush());
    if (this.filled) this.#send();
    this.port.postMessage({ ended: true });
  }
}

function mix(channels) {
  if (channels.length === 1) return channels[0];
  return channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
}

registerProcessor("capture", Capture);
