// Looks into a file without downloading it: pictures, video, audio, PDF, and text.

import * as api from "./api.js";
import { button, fill, h, icon } from "./dom.js";
import { isFile } from "./listing.js";
import { pictureOf } from "./list.js";
import { bytes } from "./words.js";

const IMAGE = /\.(png|jpe?g|gif|webp|avif|bmp|ico)$/i;
const VIDEO = /\.(mp4|m4v|webm|mov|ogv)$/i;
const AUDIO = /\.(mp3|m4a|aac|flac|ogg|oga|opus|wav)$/i;
const PDF = /\.pdf$/i;
/// So much of a text is shown.
const TEXT_BYTES = 512 << 10;
/// What fails once more so soon cannot be shown.
const AGAIN_MS = 30_000;

/// Shows one file, and on wish those beside it. `onclose(path)` hears of which one was last.
export class Preview {
  constructor({ entries, entry, onstep, onclose, does }) {
    Object.assign(this, { entries: entries.filter(isFile), onstep, does });
    this.title = h("h2", {});
    this.stage = h("div", { class: "stage", tabindex: "-1", autofocus: true });
    this.count = h("span", { class: "small" });
    const step = (by, label, picture) => button(label, { picture, textless: true, onclick: () => this.step(by) });
    this.element = h(
      "dialog",
      {
        class: "preview",
        "aria-label": "Preview",
        onclose: () => {
          this.abort?.abort();
          fill(this.stage);
          this.element.remove();
          onclose(this.entry.path);
        },
        onkeydown: (event) => this.key(event),
      },
      h(
        "header",
        {},
        this.title,
        this.count,
        step(-1, "Previous", "left"),
        step(1, "Next", "right"),
        button("Download", { picture: "download", textless: true, onclick: () => does.download(this.entry) }),
        button("Close", { picture: "close", textless: true, onclick: () => this.close() }),
      ),
      this.stage,
    );
    document.body.append(this.element);
    this.element.showModal();
    this.show(entry);
  }

  close() {
    this.element.close();
  }

  key(event) {
    event.stopPropagation();
    // Those who play use the arrows themselves.
    if (event.target.matches("video, audio")) return;
    if (event.key === "ArrowLeft") this.step(-1);
    if (event.key === "ArrowRight") this.step(1);
  }

  step(by) {
    const at = this.entries.findIndex((one) => one.path === this.entry.path);
    const next = this.entries[at + by];
    if (!next) return;
    this.show(next);
    this.onstep(next);
  }

  async show(entry) {
    this.entry = entry;
    this.abort?.abort();
    this.abort = new AbortController();
    const at = this.entries.findIndex((one) => one.path === entry.path);
    fill(this.title, entry.name);
    fill(this.count, `${at + 1} of ${this.entries.length}`);
    fill(this.stage, h("p", { class: "busy", role: "status" }, "Loading"));
    const { signal } = this.abort;
    try {
      const shown = await this.content(entry, signal);
      if (this.entry === entry) fill(this.stage, shown);
    } catch (why) {
      if (why.name !== "AbortError") fill(this.stage, this.instead(entry, why.message));
    }
  }

  async content(entry, signal) {
    const { name } = entry;
    // What plays takes a while; of what is in a frame it is not known whether it failed.
    const fresh = VIDEO.test(name) || AUDIO.test(name) || PDF.test(name);
    const address = await api.contentAddress(entry.path, { fresh });
    const failed = (event) => this.again(entry, event.target);
    if (IMAGE.test(name)) return h("img", { src: address, alt: name, onerror: failed });
    if (VIDEO.test(name))
      return h("video", { src: address, controls: true, autoplay: true, playsinline: true, onerror: failed });
    if (AUDIO.test(name)) return h("audio", { src: address, controls: true, autoplay: true, onerror: failed });
    if (PDF.test(name))
      return [
        h("iframe", { src: address, title: name }),
        h(
          "p",
          { class: "beside" },
          h("a", { href: address, target: "_blank", rel: "noopener" }, "Open in a tab of its own"),
        ),
      ];
    return this.text(entry, signal);
  }

  /// It could not be shown, or not to its end: its ticket may be over, or the server is another. Tries with a new one, from where it was.
  async again(entry, element) {
    const isNew = Date.now() - (element.triedAt ?? 0) > AGAIN_MS;
    const address = isNew && (await api.contentAddress(entry.path, { fresh: true }).catch(() => null));
    if (this.entry !== entry || !element.isConnected) return;
    if (!address) return void fill(this.stage, this.instead(entry, "This cannot be shown here."));
    element.triedAt = Date.now();
    const { currentTime: at } = element;
    element.src = address;
    if (at > 0) element.addEventListener("loadedmetadata", () => (element.currentTime = at), { once: true });
  }

  async text(entry, signal) {
    if (entry.size === 0) return this.instead(entry, "This file is empty.");
    const head = await api.head(entry.path, TEXT_BYTES, signal);
    const text = asText(head, entry.size > head.length);
    if (text === null) return this.instead(entry, "There is no preview of files of this kind.");
    const more =
      entry.size > head.length
        ? h(
            "p",
            { class: "beside" },
            `The first ${bytes(head.length)} of ${bytes(entry.size)}. Download it to see all.`,
          )
        : null;
    return [h("pre", { tabindex: "0", "aria-label": `Text of ${entry.name}` }, text), more];
  }

  instead(entry, words) {
    return h(
      "div",
      { class: "instead" },
      icon(pictureOf(entry)),
      h("p", {}, words),
      h("p", { class: "small" }, bytes(entry.size)),
      button("Download", { picture: "download", kind: "primary", onclick: () => this.does.download(entry) }),
    );
  }
}

/// Bytes as text; `null` when they are none. What was cut off in the middle of a character ends before it.
function asText(head, isCut) {
  if (head.includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(head, { stream: isCut });
  } catch {
    return null;
  }
}
