// Files on their way to the volume. Each is a job; a few go at once. A file of up to 1 MiB is one request; a larger one goes in pieces, so
// that it can be stopped, and goes on where it was after whatever broke it off. No elements here: uploads-view.js shows it.
//
// Somebody has to log in again: then all of it is held until he has, and is dropped if it is another who does.
//
// States of a job: `waiting`, `sending`, `placing` (it gets its name, or is sent in one request: the server carries that through, so nobody can
// stop it), `broken` (nobody answers: it is tried again by itself), `asking` (the name is taken), `paused`; and at last
// `done`, `skipped`, `cancelled` or `failed`.

import * as api from "./api.js";
import { keep, kept } from "./kept.js";
import { decode, encode, join, last, numbered, parent } from "./paths.js";

const AT_ONCE = 3;
const WHOLE = 1 << 20;
/// Pieces grow and shrink so that one takes about a second: that is how often progress is seen.
const PIECE = { first: 1 << 20, least: 256 << 10, most: 32 << 20, ms: 700 };
/// So much at the beginning and the end of what was sent tells whether it is the same file.
const COMPARED = 1 << 20;
const WAIT_MS = { first: 1000, most: 15_000 };
const KEPT = "ashlar.uploads";
/// The server forgets what nobody asked about for so long.
const KEPT_MS = 24 * 3600 * 1000;
const ENDED = new Set(["done", "skipped", "cancelled", "failed"]);
const RESTARTS = 3;
/// Times of files that the server takes: the years 1 to 9999.
const TIMES = { first: Date.parse("0001-01-02"), last: Date.UTC(9999, 11, 31) };
/// Numbers that are tried for one name: `photo (2).jpg` and so on.
const MOST_NUMBERS = 100;

export class Uploads extends EventTarget {
  /// `ask` asks somebody what to do where a name is taken: dialogs.js, askConflict.
  constructor(ask) {
    super();
    this.ask = ask;
    this.jobs = [];
    /// Those that have not ended, those of them that wait, and those that are being carried.
    this.open = new Set();
    this.waiting = new Set();
    this.going = new Set();
    /// What was begun by an earlier visit, or elsewhere, and is not finished: api.js, uploads.
    this.begun = [];
    this.asked = Promise.resolve();
    /// Whose they are; and, while somebody has to log in, what `held.over` waits for.
    this.owner = null;
    this.held = null;
    this.speed = { bytes: 0, since: 0, rate: 0 };
    addEventListener("beforeunload", (event) => this.isBusy && event.preventDefault());
    addEventListener("online", () => this.jobs.forEach((job) => job.wake?.()));
  }

  get isBusy() {
    return this.open.size > 0;
  }

  /// Takes in files: `{file, path}` with the path that each shall have; and folders, by their paths, those above first.
  add({ files, folders = [] }) {
    // What has failed stays, to be tried again.
    if (!this.isBusy) this.jobs = this.jobs.filter((job) => job.state === "failed");
    // What was chosen at once: its folders, those of them that are made, and what was said for all of it. No answer holds for another batch.
    const batch = { wanted: new Set(folders), folders: new Map(), forAll: null };
    for (const path of folders) this.folder(path, batch).catch((why) => this.tell("wrong", { path, why }));
    for (const { file, path } of files) {
      const job = {
        batch,
        file,
        path,
        name: decode(last(path)),
        size: file.size,
        sent: 0,
        state: "waiting",
        replace: false,
        restarts: 0,
        tried: 1,
      };
      this.jobs.push(job);
      this.sort(job);
    }
    this.tell("change");
    this.begin();
  }

  tell(type, detail = {}) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  set(job, state, why = null) {
    Object.assign(job, { state, why });
    this.sort(job);
    this.tell("change", { job });
    if (ENDED.has(state) && !this.isBusy) this.tell("end");
  }

  sort(job) {
    const put = (set, isIn) => (isIn ? set.add(job) : set.delete(job));
    put(this.open, !ENDED.has(job.state));
    put(this.waiting, job.state === "waiting");
  }

  /// Starts as many as may go at once.
  begin() {
    if (this.held) return;
    for (const job of this.waiting) {
      if (this.going.size >= AT_ONCE) return;
      if (!this.going.has(job)) this.run(job);
    }
  }

  /// Somebody has to log in: nothing goes on, and nothing fails for it.
  hold() {
    if (this.held) return;
    let end;
    const over = new Promise((resolve) => (end = resolve));
    this.held = { over, end };
  }

  /// Somebody was let in, by this name or (`null`) without one. What another began is not sent as his.
  enter(user) {
    if (this.owner !== user) this.begun = [];
    if (this.jobs.length > 0 && this.owner !== user) this.drop();
    this.owner = user;
    this.held?.end();
    this.held = null;
    this.begin();
  }

  drop() {
    for (const job of this.jobs) {
      if (!ENDED.has(job.state)) this.set(job, "cancelled");
      job.stop?.abort();
    }
    this.jobs = [];
    this.begun = [];
    this.tell("change");
  }

  /// Asks the server what was begun, and is not finished, beside what this page is sending.
  async look() {
    const all = await api.uploads().catch(() => []);
    const own = new Set(this.jobs.map((job) => job.id));
    this.begun = all.filter(({ id }) => !own.has(id));
    this.tell("change");
  }

  /// Ends one of these. Answers why not, if it could not be.
  async endBegun({ id }) {
    const why = await this.abandon(id);
    const rest = Object.entries(keptUploads()).filter(([, known]) => known.id !== id);
    keepUploads(Object.fromEntries(rest));
    if (!(why instanceof Error) || why.status === 404) return null;
    await this.look();
    return why;
  }

  /// It goes on here, or is ended: it is none of those that were begun elsewhere.
  unlist(id) {
    if (!this.begun.some((one) => one.id === id)) return;
    this.begun = this.begun.filter((one) => one.id !== id);
    this.tell("change");
  }

  pause(job) {
    if (!["waiting", "sending", "broken"].includes(job.state)) return;
    this.set(job, "paused");
    job.stop?.abort();
  }

  resume(job) {
    if (job.state !== "paused" && job.state !== "failed") return;
    // What was in the way, or gone, may be another now: its folders are looked for again.
    if (job.state === "failed") job.batch.folders.clear();
    // What was stopped may not have ended yet: then it goes on by itself.
    this.set(job, "waiting");
    this.begin();
  }

  cancel(job) {
    if (ENDED.has(job.state) || job.state === "placing") return;
    this.set(job, "cancelled");
    job.stop?.abort();
    this.forget(job);
    if (job.id) this.abandon(job.id);
  }

  /// Has the server forget what it has of an upload; what is still on its way there may hold that up for a while. Answers a refusal, if it
  /// does not.
  async abandon(id) {
    this.unlist(id);
    let why;
    for (let wait = WAIT_MS.first; wait < WAIT_MS.most; wait *= 2) {
      why = await api.endUpload(id).catch((refusal) => refusal);
      if (!why.passes) break;
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
    return why;
  }

  /// Makes a folder, once, and those that it lies in before.
  folder(path, batch) {
    if (!batch.wanted.has(path)) return Promise.resolve();
    if (!batch.folders.has(path)) batch.folders.set(path, this.make(path, batch));
    return batch.folders.get(path);
  }

  async make(path, batch) {
    await this.folder(parent(path), batch);
    try {
      this.tell("made", { entry: await api.makeFolder(path) });
    } catch (why) {
      if (await isFolderThere(why, path)) return;
      batch.folders.delete(path);
      if (!why.answer?.there) throw why;
      throw new api.Refusal(409, "no_folder", `There is already “${decode(last(path))}”, and it is no folder.`);
    }
  }

  run(job) {
    this.going.add(job);
    this.carry(job).finally(() => {
      this.going.delete(job);
      this.begin();
    });
  }

  /// Sends a job until it has ended, or somebody stops it.
  async carry(job) {
    let wait = WAIT_MS.first;
    while (!this.held && (job.state === "waiting" || job.state === "sending" || job.state === "broken")) {
      job.stop = new AbortController();
      this.set(job, "sending");
      const before = job.sent;
      try {
        this.arrived(job, await this.send(job, job.stop.signal));
      } catch (why) {
        if (job.sent > before) wait = WAIT_MS.first;
        await this.meet(job, why, wait);
        wait = Math.min(wait * 2, WAIT_MS.most);
      }
    }
    // It is held: it goes on as any that waits.
    if (job.state === "sending" || job.state === "broken") this.set(job, "waiting");
  }

  arrived(job, entry) {
    this.forget(job);
    this.set(job, "done");
    this.tell("made", { entry });
  }

  /// What becomes of a job that was not sent: it is tried again, somebody is asked, or it has failed.
  async meet(job, why, wait) {
    if (why.name === "AbortError" || !["sending", "placing"].includes(job.state)) return undefined;
    if (job.state === "placing") {
      // It may have its name all the same, and the answer was lost.
      job.isUnsure ||= why.passes;
      this.set(job, "sending");
    }
    if (why.status === 401) {
      this.hold();
      return this.set(job, "waiting");
    }
    if (why.word === "no_such_upload" && job.restarts < RESTARTS) {
      if (job.isUnsure && (await this.isThere(job))) return undefined;
      job.restarts += 1;
      this.forget(job);
      return void Object.assign(job, { id: null, sent: 0, isWhole: false });
    }
    if (why.answer?.offset !== undefined) {
      job.isWhole = false;
      // The same once more, and it would be asked without end.
      if (why.answer.offset === job.sent) await this.rest(job, wait);
      job.sent = why.answer.offset;
      return undefined;
    }
    if (why.word === "conflict" || why.word === "precondition_failed") return this.taken(job, why, wait);
    // What the browser cannot do is mostly to read a file that is another by now.
    if (!why.passes && !(why instanceof DOMException)) return this.set(job, "failed", why.message ?? String(why));
    if (!(await isReadable(job)))
      return this.set(job, "failed", "The file was changed or removed while it was sent. Choose it again.");
    job.isAnswered = why.status !== 0;
    this.set(job, "broken", why.message);
    // After too many wrong logins the server says how long nobody is looked at.
    return this.rest(job, why.status === 429 ? Math.max(wait, why.wait * 1000) : wait);
  }

  /// Waits, unless the job is stopped or woken.
  rest(job, wait) {
    return new Promise((resolve) => {
      job.wake = resolve;
      job.stop.signal.addEventListener("abort", resolve);
      setTimeout(resolve, wait);
    });
  }

  async send(job, signal) {
    await this.folder(parent(job.path), job.batch);
    const { file, size, replace } = job;
    const modified = timeOf(file);
    if (size <= WHOLE) {
      signal.throwIfAborted();
      this.set(job, "placing");
      const { entry } = await api.put(job.path, file, { replace, modified });
      job.sent = size;
      this.count(size);
      return placed(entry, job.path);
    }
    if (!job.isWhole) {
      await this.stand(job, { size, modified, replace, signal });
      await this.pieces(job, signal);
      signal.throwIfAborted();
      job.isWhole = true;
    }
    this.set(job, "placing");
    const path = job.begun === job.path ? undefined : job.path;
    const { entry } = await api.finishUpload(job.id, { replace: replace || undefined, path });
    return placed(entry, job.path);
  }

  /// Where an upload stands: of this page, of an earlier visit, or a new one.
  async stand(job, how) {
    const known = keptUploads()[this.keyOf(job)];
    const id = job.id ?? known?.id;
    if (!job.id && known && !(await isAsBefore(job.file, known))) {
      this.abandon(id);
    } else if (id) {
      try {
        const { offset, size } = await api.standOf(id, how.signal);
        this.unlist(id);
        if (size === undefined || size === job.size)
          return void Object.assign(job, { id, sent: offset, begun: job.begun ?? job.path });
      } catch (why) {
        if (why.status !== 404) throw why;
      }
    }
    this.forget(job);
    // Not to be stopped: of what has begun the page must know, or nobody can end it.
    const { signal, ...what } = how;
    const { id: fresh, offset } = await api.beginUpload(job.path, what);
    if (job.state === "cancelled") this.abandon(fresh);
    Object.assign(job, { id: fresh, sent: offset, begun: job.path });
    if (!ENDED.has(job.state)) await this.remember(job);
    signal.throwIfAborted();
  }

  async pieces(job, signal) {
    let length = PIECE.first;
    while (job.sent < job.size) {
      const began = performance.now();
      const piece = job.file.slice(job.sent, job.sent + length);
      const { offset } = await api.sendPiece(job.id, job.sent, piece, signal);
      this.count(offset - job.sent);
      job.sent = offset;
      await this.remember(job);
      this.tell("change", { job });
      const took = performance.now() - began;
      length =
        took < PIECE.ms
          ? Math.min(length * 2, PIECE.most)
          : took > 2 * PIECE.ms
            ? Math.max(length / 2, PIECE.least)
            : length;
    }
  }

  /// The name is taken, or something else is in the way, which no answer helps. Those who ask do so one after the other.
  async taken(job, why, wait) {
    const there = await api.taken(why, job.path).catch((refusal) => refusal);
    if (there instanceof Error) return this.meet(job, there, wait);
    if (job.state !== "sending") return undefined;
    if (!there) return this.set(job, "failed", why.message);
    if (job.isUnsure && (await this.isThere(job))) return undefined;
    if (job.both) return this.renumber(job);
    this.set(job, "asking");
    const turn = this.asked.then(() => this.decide(job, there));
    this.asked = turn.catch(() => {});
    const how = await turn;
    if (job.state !== "asking") return undefined;
    if (how === "skip") {
      if (job.id) this.abandon(job.id);
      this.forget(job);
      return this.set(job, "skipped");
    }
    this.set(job, "sending");
    if (how === "replace") job.replace = true;
    else this.renumber(job);
    return undefined;
  }

  /// Is it this very file that is there, and only the answer was lost? Then the job is done.
  async isThere(job) {
    const entry = await api.entry(job.path).catch(() => null);
    const isThis = entry?.kind === "file" && entry.size === job.size && entry.modified === timeOf(job.file);
    if (isThis) this.arrived(job, entry);
    return isThis;
  }

  async decide(job, there) {
    if (this.held) await this.held.over;
    if (job.state !== "asking") return "skip";
    const { batch } = job;
    // A folder is not replaced by a file, whatever was said for all.
    const mayReplace = there !== "folder" && !job.replace;
    if (batch.forAll && (mayReplace || batch.forAll !== "replace")) return batch.forAll;
    const more = [...this.open].filter((one) => one.batch === batch).length - 1;
    const answer = await this.ask({ name: decode(last(job.path)), there, more });
    // Nobody closed the question: the page did, to ask who somebody is.
    if (answer === null && this.held) return this.decide(job, there);
    const { how, all } = answer ?? { how: "skip" };
    if (all) batch.forAll = how;
    return how;
  }

  renumber(job) {
    job.both = true;
    job.tried += 1;
    if (job.tried > MOST_NUMBERS)
      return this.set(job, "failed", `There are ${MOST_NUMBERS} of that name already: give it another one.`);
    const original = job.name;
    job.path = join(parent(job.path), encode(numbered(original, job.tried)));
    return undefined;
  }

  // Which uploads have begun, and by whom, so that a file that is chosen again, after the page was closed, goes on where it was.

  keyOf(job) {
    return [this.owner ?? "", job.begun ?? job.path, job.size, job.file.lastModified].join("|");
  }

  async remember(job) {
    const { id, sent } = job;
    const sums = await sumsOf(job.file, sent);
    if (job.id === id && !ENDED.has(job.state))
      keepUploads({ ...keptUploads(), [this.keyOf(job)]: { id, sent, sums, at: Date.now() } });
  }

  forget(job) {
    const { [this.keyOf(job)]: _gone, ...rest } = keptUploads();
    keepUploads(rest);
  }

  count(bytes) {
    const now = performance.now();
    const { speed } = this;
    if (now - speed.since > 4000) Object.assign(speed, { bytes: 0, since: now - 1, rate: 0 });
    speed.bytes += bytes;
    const seconds = (now - speed.since) / 1000;
    if (seconds < 1) return;
    speed.rate = speed.rate ? (speed.rate + speed.bytes / seconds) / 2 : speed.bytes / seconds;
    Object.assign(speed, { bytes: 0, since: now });
  }

  /// All of it: bytes, files, and bytes per second lately.
  get total() {
    const counted = this.jobs.filter((job) => job.state !== "skipped" && job.state !== "cancelled");
    const sum = (of) => counted.reduce((all, job) => all + of(job), 0);
    const inState = (state) => this.jobs.filter((job) => job.state === state).length;
    return {
      size: sum((job) => job.size),
      sent: sum((job) => (job.state === "done" ? job.size : job.sent)),
      files: counted.length,
      done: inState("done"),
      failed: inState("failed"),
      skipped: inState("skipped"),
      paused: inState("paused"),
      broken: inState("broken"),
      busy: this.jobs.filter((job) => job.state === "broken" && job.isAnswered).length,
      rate: this.speed.rate,
    };
  }
}

function placed(entry, path) {
  return { ...entry, address: last(path), path, folder: parent(path) };
}

/// Was a folder not made because it is there? Something else that has its name is in the way of all that would be in it.
async function isFolderThere(why, path) {
  const there = why.answer?.there;
  if (!there) return false;
  if (there !== "link") return there === "folder";
  return (await api.entry(path).catch(() => ({}))).leads_to === "folder";
}

/// When a file was last changed; nothing, if it claims a time that none has.
function timeOf({ lastModified: at }) {
  return at > TIMES.first && at < TIMES.last ? at : undefined;
}

async function isReadable({ file, sent }) {
  try {
    await file.slice(sent, sent + 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

// A file of the same path, size and time may be another all the same, as a picture of a disk that is made again: what was sent is compared, too.

/// Sums of the first part of a file, and of the last one of what was sent.
async function sumsOf(file, sent) {
  const sum = async (from, to) => crc32(new Uint8Array(await file.slice(from, to).arrayBuffer()));
  return [await sum(0, COMPARED), await sum(Math.max(sent - COMPARED, 0), sent)];
}

async function isAsBefore(file, { sent, sums }) {
  const now = await sumsOf(file, sent);
  return now.every((sum, at) => sum === sums?.[at]);
}

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit += 1) rest = (rest >>> 1) ^ (rest & 1 ? 0xedb88320 : 0);
  return rest;
});

function crc32(bytes) {
  let sum = -1;
  for (const byte of bytes) sum = (sum >>> 8) ^ CRC[(sum ^ byte) & 0xff];
  return ~sum >>> 0;
}

/// Those that the server may still know.
function keptUploads() {
  try {
    const all = Object.entries(JSON.parse(kept(KEPT)) ?? {});
    return Object.fromEntries(all.filter(([, { at }]) => Date.now() - at < KEPT_MS));
  } catch {
    return {};
  }
}

function keepUploads(all) {
  keep(KEPT, JSON.stringify(all));
}
