// German and English side by side. Every German word is a button; the arrow keys go from one to the next.
// Text is only ever inserted as text: nothing that was said, and no name of a file, becomes markup.

const DOUBTFUL = 0.5; // words that are less likely to be right are marked
const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

/** @typedef {{start: number, end: number, german: string, english: ?string, words: object[], confidence: number,
 *   englishConfidence: number, channel: ?number, speaker: string, pending: boolean}} Segment */

/** A segment of the service's verbose_json, of a translation or of a transcript. */
export function readSegment(content) {
  const german = content.source ?? content;
  return makeSegment({
    start: content.start,
    end: content.end,
    german: german.text,
    words: german.words ?? [],
    confidence: Math.exp(german.avg_logprob),
    english: content.source ? content.text : null,
    englishConfidence: Math.exp(content.avg_logprob),
    channel: content.channel ?? null,
    speaker: content.speaker ?? "",
  });
}

/** @returns {Segment} */
export function makeSegment(known) {
  const empty = { start: NaN, end: NaN, german: "", english: null, words: [], confidence: 0, englishConfidence: 0 };
  return { ...empty, channel: null, speaker: "", pending: false, ...known };
}

/** What the service's renderings take: a result as `engine translate --output_format json` writes it. */
export function toResult(known, duration, warnings) {
  const segments = known.filter((each) => !each.pending).map(placeBehind);
  const place = ({ start, end, channel }) => ({ start, end, ...(channel === null ? {} : { channel }) });
  const german = segments.map((each) => ({ ...place(each), text: each.german, confidence: each.confidence, words: each.words }));
  const source = { language: "de", duration, warnings, segments: german };
  const translated = segments.filter((each) => each.english !== null);
  if (!translated.length) return source;
  const english = translated.map((each) => ({ ...place(each), text: each.english, confidence: each.englishConfidence }));
  return { language: "en", duration, segments: english, source };
}

/** A segment without times, as of speech that was cut off, is where the one before it ends. */
function placeBehind(segment, index, all) {
  if (!Number.isNaN(segment.start + segment.end)) return segment;
  const before = all.slice(0, index).findLast((each) => !Number.isNaN(each.end))?.end ?? 0;
  const start = Number.isNaN(segment.start) ? before : segment.start;
  return { ...segment, start, end: start };
}

export function describeTime(seconds, decimals = 0) {
  const whole = Math.floor(seconds / 60);
  const rest = (seconds - 60 * whole).toFixed(decimals).padStart(decimals ? decimals + 3 : 2, "0");
  return `${whole}:${rest}`;
}

export function describeWord({ start, end, probability }) {
  return `${describeTime(start, 2)} to ${describeTime(end, 2)}, ${Math.round(100 * probability)} % sure`;
}

export class Transcript {
  /** @param {{onPlay: function(number), onWord: function(object)}} told of a chosen time, and of a word that is looked at */
  constructor(list, { onPlay, onWord }) {
    this.list = list;
    this.onPlay = onPlay;
    this.onWord = onWord;
    this.clear();
    list.addEventListener("click", (event) => this.#click(event));
    list.addEventListener("keydown", (event) => this.#move(event));
    list.addEventListener("focusin", (event) => this.#look(event));
    list.addEventListener("pointerover", (event) => this.#look(event));
  }

  /** @returns {Segment[]} in the order in which they appear */
  get segments() {
    return [...this.rows.values()].map(({ segment }) => segment);
  }

  clear() {
    this.rows = new Map();
    this.words = new Map(); // button -> word, in the order of the page
    this.timed = []; // the same, in the order of time
    this.spoken = null;
    this.list.replaceChildren();
  }

  /** Show a segment under a key, in the place of the one that has it. */
  set(key, segment) {
    const before = this.rows.get(key)?.row;
    const focused = before ? [...before.querySelectorAll(".word")].indexOf(document.activeElement) : -1;
    const row = this.#draw(segment);
    if (before) before.replaceWith(row);
    else this.list.append(row);
    this.rows.set(key, { segment, row });
    this.#collect();
    if (focused >= 0) row.querySelectorAll(".word")[focused]?.focus();
  }

  remove(key) {
    this.rows.get(key)?.row.remove();
    this.rows.delete(key);
    this.#collect();
  }

  /** Guesses that nothing will take the place of any more. */
  dropGuesses() {
    for (const [key, { segment }] of [...this.rows]) if (segment.pending) this.remove(key);
  }

  /** Mark the word that is spoken at a time. */
  showTime(seconds) {
    const found = this.#wordAt(seconds);
    if (found === this.spoken) return;
    this.spoken?.classList.remove("spoken");
    found?.classList.add("spoken");
    this.spoken = found;
  }

  /** By bisection: of many thousands, at every frame. */
  #wordAt(seconds) {
    let [low, high] = [0, this.timed.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.timed[middle][1].start <= seconds) low = middle + 1;
      else high = middle;
    }
    const [button, word] = this.timed[low - 1] ?? [null, null];
    return word && seconds < word.end ? button : null;
  }

  #draw(segment) {
    const row = element("li", "segment");
    if (segment.pending) row.setAttribute("aria-live", "off"); // a guess is not read aloud
    const label = Number.isNaN(segment.start) ? "" : describeTime(segment.start);
    row.append(element("span", "time", [label, segment.speaker].filter(Boolean).join(" ")));
    const german = element("p", segment.pending ? "german draft" : "german");
    german.lang = "de";
    for (const [i, word] of segment.words.entries()) german.append(i ? " " : "", this.#button(word));
    if (!segment.words.length) german.append(segment.german);
    const english = element("p", "english", segment.english ?? "");
    english.lang = "en";
    if (!Number.isNaN(segment.start)) english.dataset.start = segment.start;
    row.append(german, english);
    row.pairs = [...german.querySelectorAll(".word")].map((button, i) => [button, segment.words[i]]);
    return row;
  }

  #button(word) {
    const button = element("button", word.probability < DOUBTFUL ? "word doubtful" : "word", word.word);
    button.type = "button";
    button.tabIndex = -1;
    button.title = describeWord(word);
    button.dataset.start = word.start;
    return button;
  }

  /** All words anew, one of which the Tab key reaches. */
  #collect() {
    this.words = new Map([...this.list.children].flatMap((row) => row.pairs));
    this.timed = [...this.words].sort(([, a], [, b]) => a.start - b.start);
    if (!this.list.querySelector('.word[tabindex="0"]')) this.#reach(this.words.keys().next().value);
  }

  #reach(button) {
    for (const other of this.list.querySelectorAll('.word[tabindex="0"]')) other.tabIndex = -1;
    if (button) button.tabIndex = 0;
  }

  #click(event) {
    const start = event.target.closest("[data-start]")?.dataset.start;
    if (start !== undefined) this.onPlay(Number(start));
  }

  #look(event) {
    const button = event.target.closest(".word");
    if (!button) return;
    this.onWord(this.words.get(button));
    if (event.type === "focusin") this.#reach(button);
  }

  #move(event) {
    const current = event.target.closest(".word");
    if (!current || event.ctrlKey || event.altKey || event.metaKey) return;
    const next = this.#neighbour(current, event.key);
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  #neighbour(current, key) {
    const words = [...this.words.keys()];
    if (key in STEPS) return words[words.indexOf(current) + STEPS[key]];
    if (key === "Home") return words[0];
    if (key === "End") return words.at(-1);
    const rows = [...this.list.children].filter((row) => row.pairs.length);
    const row = rows.indexOf(current.closest(".segment"));
    if (key === "ArrowDown") return rows[row + 1]?.pairs[0][0];
    if (key === "ArrowUp") return rows[row - 1]?.pairs[0][0];
    return undefined;
  }
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}
