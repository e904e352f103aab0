// Any sample rate to another: windowed sinc, so that nothing above the new range comes back as another tone.

const CROSSINGS = 16; // of the sinc, on each side
const PHASES = 512; // of the table between two samples

export class Resampler {
  /** @param {number} from Hz @param {number} to Hz */
  constructor(from, to) {
    this.step = from / to; // input samples for each output sample
    this.cutoff = Math.min(1, to / from) * 0.94;
    this.half = Math.ceil(CROSSINGS / this.cutoff); // input samples on each side
    this.table = makeTable(this.half, this.cutoff);
    this.kept = new Float32Array(this.half); // silence before the first sample
    this.next = this.half; // where the next output sample is, in input samples of `kept`
  }

  /** Samples in, as many out as are certain. @param {Float32Array} samples @returns {Float32Array} */
  push(samples) {
    const all = new Float32Array(this.kept.length + samples.length);
    all.set(this.kept);
    all.set(samples, this.kept.length);
    const n = Math.max(0, Math.ceil((all.length - this.half - this.next) / this.step));
    const out = new Float32Array(n);
    for (let i = 0; i < n; i++) out[i] = this.#at(all, this.next + i * this.step);
    const next = this.next + n * this.step;
    const drop = Math.max(0, Math.floor(next) - this.half);
    this.kept = all.slice(drop);
    this.next = next - drop;
    return out;
  }

  /** The samples that waited for others. */
  flush() {
    return this.push(new Float32Array(this.half));
  }

  #at(samples, position) {
    const first = Math.floor(position) - this.half + 1;
    const phase = Math.round((position - Math.floor(position)) * PHASES);
    const width = 2 * this.half;
    let sum = 0;
    for (let k = 0, at = phase * width; k < width; k++, at++) sum += samples[first + k] * this.table[at];
    return sum;
  }
}

function makeTable(half, cutoff) {
  const width = 2 * half;
  const table = new Float32Array((PHASES + 1) * width);
  for (let phase = 0; phase <= PHASES; phase++) {
    for (let k = 0; k < width; k++) {
      const x = k - half + 1 - phase / PHASES; // distance of the input sample
      const angle = Math.PI * x * cutoff;
      const window = 0.5 + 0.5 * Math.cos((Math.PI * x) / (half + 1));
      table[phase * width + k] = (angle === 0 ? 1 : Math.sin(angle) / angle) * cutoff * window;
    }
  }
  return table;
}
