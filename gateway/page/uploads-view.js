// The panel that shows what is being sent, and what was begun before and is not finished.

import { confirm, note } from "./dialogs.js";
import { button, fill, h, icon } from "./dom.js";
import { decode, last, parent } from "./paths.js";
import { bytes, counted, span } from "./words.js";

/// Slower than this is not told: nothing has been measured yet.
const SLOWEST = 1024;
/// Rows at once; those that need somebody, and those under way, come first.
const ROWS = 60;
const RANKS = {
  asking: 0,
  failed: 1,
  broken: 2,
  sending: 3,
  placing: 4,
  paused: 5,
  waiting: 6,
  done: 7,
  skipped: 8,
  cancelled: 9,
};
/// What can be done with a job, beside cancelling it.
const CAN = { waiting: "pause", sending: "pause", broken: "pause", paused: "resume", failed: "again" };
const DRAW_MS = 120;
/// What was sent is shown for so long.
const KEPT_MS = 12_000;

const WORDS = {
  waiting: () => "Waiting",
  sending: (job) => `${bytes(job.sent)} of ${bytes(job.size)}`,
  placing: (job) => `${bytes(job.size)}, until it is safe`,
  broken: (job) => (job.isAnswered ? `${job.why} Tried again by itself` : "No connection. Goes on by itself"),
  asking: () => "The name is taken",
  paused: (job) => `Paused at ${bytes(job.sent)} of ${bytes(job.size)}`,
  done: (job) => bytes(job.size),
  skipped: () => "Skipped",
  cancelled: () => "Cancelled",
  failed: (job) => job.why,
};

/// What one that was begun elsewhere is called. One by another key of the same user may lie in a folder that is not seen here.
function nameOf({ path }) {
  return path === undefined ? "a file of another key of yours" : decode(last(path));
}

function standOf({ path, offset, size, silent }) {
  const came = size === undefined ? `${bytes(offset)} came` : `${bytes(offset)} of ${bytes(size)} came`;
  const where = path === undefined || parent(path) === "" ? "" : `, for ${decode(parent(path))}`;
  return `${came}${where}, the last ${span(silent)} ago`;
}

/// So many jobs, by the ranks of their states.
function first(jobs, count) {
  const ranks = Object.keys(RANKS).map(() => []);
  for (const job of jobs) ranks[RANKS[job.state]].push(job);
  return ranks.flat().slice(0, count);
}

export class UploadsView {
  constructor(uploads) {
    this.uploads = uploads;
    this.rows = new Map();
    this.title = h("h2", { class: "title" });
    this.more = h("p", { class: "more" });
    this.bar = h("progress", { "aria-label": "All uploads", max: "1", value: 0 });
    this.list = h("ul", { tabindex: "0", "aria-label": "Files that are uploaded" });
    this.buttons = h("div", { class: "buttons" });
    this.begun = h("div", { class: "begun" });
    this.element = h(
      "section",
      { class: "uploads", "aria-label": "Uploads", hidden: true },
      h("header", {}, this.title, this.buttons),
      this.bar,
      this.list,
      this.more,
      this.begun,
    );
    uploads.addEventListener("change", () => this.soon());
    uploads.addEventListener("end", () => this.end());
  }

  get isEmpty() {
    return this.uploads.jobs.length === 0 && this.uploads.begun.length === 0;
  }

  /// Draws soon: what changes a thousand times a second is not drawn as often.
  soon() {
    this.element.hidden = this.isEmpty;
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.draw();
    }, DRAW_MS);
  }

  /// Nothing is left to be sent: the panel goes away by itself, unless something was not sent.
  end() {
    this.soon();
    clearTimeout(this.leaving);
    if (this.uploads.total.failed === 0) this.leaving = setTimeout(() => this.uploads.isBusy || this.clear(), KEPT_MS);
  }

  /// What was begun elsewhere is shown again on the next visit.
  close() {
    this.uploads.begun = [];
    this.clear();
  }

  clear() {
    this.uploads.jobs = [];
    this.draw();
  }

  draw() {
    const { uploads } = this;
    const total = uploads.total;
    this.element.hidden = this.isEmpty;
    fill(this.title, this.words(total));
    this.bar.value = total.size ? total.sent / total.size : Number(total.done > 0);
    this.bar.hidden = !uploads.isBusy;
    this.drawButtons(total);
    const jobs = first(uploads.jobs, ROWS);
    const rows = new Map(jobs.map((job) => [job, this.rows.get(job) ?? this.row(job)]));
    this.rows = rows;
    for (const [job, row] of rows) this.drawRow(job, row);
    const elements = [...rows.values()].map((row) => row.element);
    if (
      elements.some((element, at) => this.list.children[at] !== element) ||
      this.list.children.length !== elements.length
    )
      fill(this.list, elements);
    fill(this.more, uploads.jobs.length > ROWS ? `and ${counted(uploads.jobs.length - ROWS, "more file")}` : "");
    this.list.hidden = jobs.length === 0;
    this.drawBegun();
  }

  /// Drawn anew only where it is another list, so that no click is lost.
  drawBegun() {
    const { begun } = this.uploads;
    if (this.drawn === begun) return;
    this.drawn = begun;
    if (begun.length === 0) {
      fill(this.begun);
      return;
    }
    fill(
      this.begun,
      h(
        "p",
        { class: "more" },
        "Begun before, and not finished. Choose such a file again, and it goes on where it was.",
      ),
      h(
        "ul",
        { tabindex: "0", "aria-label": "Uploads that are not finished" },
        begun.slice(0, ROWS).map((one) => this.begunRow(one)),
      ),
    );
  }

  begunRow(one) {
    const name = nameOf(one);
    const title = h("span", { class: "title", title: name }, name);
    const end = button(`End ${name}`, { picture: "close", textless: true, onclick: () => this.endBegun(one) });
    return h(
      "li",
      {},
      h("span", { class: "picture" }, icon("pause")),
      h("div", { class: "words" }, title, h("span", { class: "small" }, standOf(one))),
      h("span", { class: "buttons" }, end),
    );
  }

  async endBegun(one) {
    const sure = await confirm({
      title: `End the upload of “${nameOf(one)}”?`,
      text: "What has come of it is deleted. The file that it was sent from stays as it is.",
      action: "End it",
      dangerous: true,
    });
    if (!sure) return;
    const why = await this.uploads.endBegun(one);
    if (why) note(`“${nameOf(one)}”: ${why.message}`, { wrong: true });
  }

  words({ size, sent, files, done, failed, skipped, paused, broken, busy, rate }) {
    if (this.uploads.jobs.length === 0) return `${counted(this.uploads.begun.length, "upload")} not finished`;
    const not = [failed && `${failed} not`, skipped && `${skipped} skipped`].filter(Boolean).join(", ");
    if (!this.uploads.isBusy) return `${counted(done, "file")} uploaded${not && `, ${not}`}`;
    if (broken) return busy === broken ? "The server cannot take it yet" : "Waiting for the server";
    if (paused && paused === files - done - failed) return `Paused, ${done} of ${counted(files, "file")} uploaded`;
    const speed = rate > SLOWEST ? `, ${bytes(rate)}/s` : "";
    const left = speed && size > sent ? `, ${span((size - sent) / rate)} left` : "";
    return `Uploading ${done + 1 > files ? files : done + 1} of ${counted(files, "file")}${speed}${left}`;
  }

  drawButtons({ paused, failed }) {
    const { uploads } = this;
    const each = (does) => () => [...uploads.jobs].forEach((job) => does.call(uploads, job));
    const state = !uploads.isBusy ? (failed ? "failed" : "ended") : paused ? "paused" : "going";
    if (state === this.state) return;
    this.state = state;
    const small = (label, picture, onclick) => button(label, { picture, textless: true, onclick });
    fill(
      this.buttons,
      {
        going: () => [
          small("Pause all", "pause", each(uploads.pause)),
          small("Cancel all", "close", each(uploads.cancel)),
        ],
        paused: () => [
          small(
            "Resume all",
            "play",
            each((job) => job.state === "paused" && uploads.resume(job)),
          ),
          small("Cancel all", "close", each(uploads.cancel)),
        ],
        failed: () => [
          small(
            "Try all again",
            "again",
            each((job) => job.state === "failed" && uploads.resume(job)),
          ),
          small("Close", "close", () => this.close()),
        ],
        ended: () => small("Close", "close", () => this.close()),
      }[state](),
    );
  }

  row(job) {
    const row = {
      state: null,
      picture: h("span", { class: "picture" }),
      words: h("span", { class: "small" }),
      buttons: h("span", { class: "buttons" }),
    };
    row.bar = h("progress", { max: "1", value: 0, "aria-label": `Upload of ${job.name}` });
    row.element = h(
      "li",
      {},
      row.picture,
      h("div", { class: "words" }, h("span", { class: "title", title: job.name }, job.name), row.bar, row.words),
      row.buttons,
    );
    return row;
  }

  drawRow(job, row) {
    fill(row.words, WORDS[job.state](job));
    row.bar.value = job.size ? job.sent / job.size : 0;
    if (row.state === job.state) return;
    row.state = job.state;
    row.element.dataset.state = job.state;
    row.bar.hidden = !["sending", "placing", "broken", "paused", "asking"].includes(job.state);
    fill(
      row.picture,
      icon({ done: "check", failed: "warning", broken: "warning", paused: "pause" }[job.state] ?? "file"),
    );
    this.drawRowButtons(job, row);
  }

  /// They stay the same ones for as long as they do the same, so that no click is lost.
  drawRowButtons(job, row) {
    const does = CAN[job.state] ?? "";
    if (row.does === does) return;
    row.does = does;
    const small = (label, picture, does) =>
      button(`${label} ${job.name}`, { picture, textless: true, onclick: () => does.call(this.uploads, job) });
    const cancel = () => small("Cancel", "close", this.uploads.cancel);
    fill(
      row.buttons,
      {
        pause: () => [small("Pause", "pause", this.uploads.pause), cancel()],
        resume: () => [small("Resume", "play", this.uploads.resume), cancel()],
        again: () => small("Try again:", "again", this.uploads.resume),
      }[does]?.() ?? [],
    );
  }
}
