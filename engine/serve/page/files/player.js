// The recording: plays from a word on, and shows which word is spoken.

export class Player {
  /** @param {function(number)} onTime called with the seconds while it plays */
  constructor(audio, onTime) {
    this.audio = audio;
    this.url = null;
    const tell = () => {
      onTime(audio.currentTime);
      if (!audio.paused) requestAnimationFrame(tell);
    };
    audio.addEventListener("play", tell);
    audio.addEventListener("seeked", tell);
    audio.addEventListener("error", () => this.url && this.close()); // a kind that this browser cannot play
  }

  /** Seconds; NaN where they are not known. */
  get duration() {
    return this.url ? this.audio.duration : NaN;
  }

  open(blob) {
    this.close();
    this.url = URL.createObjectURL(blob);
    this.audio.src = this.url;
    this.audio.hidden = false;
  }

  close() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = null;
    this.audio.hidden = true;
    this.audio.removeAttribute("src");
    this.audio.load();
  }

  playFrom(seconds) {
    if (!this.url) return;
    this.audio.currentTime = seconds;
    this.audio.play().catch(() => {}); // another click came before it began
  }
}
