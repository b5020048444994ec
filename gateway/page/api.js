// The API as functions: who asks, what is asked, and what is said when it cannot be done. Nothing else of the page knows of HTTP.
//
// Who has logged in is known by a header that the page keeps for this tab alone (sessionStorage). What the browser fetches by itself
// (pictures, downloads) carries a ticket instead: a word that lets one read one place, for an hour.

import { keep, kept } from "./kept.js";
import { canonical, canonicalPath } from "./paths.js";

const PREFIX = "/api/v1";
const KEPT = "ashlar.login";
/// A ticket is good for an hour; by then another one is asked for.
const TICKET_KEPT_MS = 45 * 60 * 1000;

/// The share link that the page was opened with, if it was.
export const link = new URLSearchParams(location.search).get("link");

/// Tells page.js that somebody has to log in (`login`), that nobody answers (`lost`), and that somebody does (`found`).
export const events = new EventTarget();

/// Why something was not done: `word` for the page, `message` for people, `status` 0 where nobody answered.
export class Refusal extends Error {
  constructor(status, word, message, answer = {}) {
    super(message);
    Object.assign(this, { status, word, answer });
  }

  /// Is it worth trying again by itself? Nobody answered, it came too slowly or too often, or the volume cannot do it at present.
  get passes() {
    return [0, 408, 429, 502, 503, 504].includes(this.status);
  }
}

const tickets = new Map();

/// Logs in from now on: `Basic ...` or `Bearer ...`; with `null`, out.
export function showAs(authorization) {
  tickets.clear();
  keep(KEPT, authorization, "sessionStorage");
}

/// Has somebody logged in?
export function isShown() {
  return kept(KEPT, "sessionStorage") !== null;
}

/// What a name and a password are as a header.
export function basic(name, password) {
  const bytes = new TextEncoder().encode(`${name}:${password}`);
  return `Basic ${btoa(String.fromCharCode(...bytes))}`;
}

function addressOf(path, query = {}) {
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== undefined && one !== null) asked.append(name, one);
  }
  const text = asked.toString();
  return PREFIX + path + (text && `?${text}`);
}

/// Asks. Answers the response, if it is a good one.
export async function ask(method, path, { query = {}, json, body, headers = {}, signal } = {}) {
  const shown = kept(KEPT, "sessionStorage");
  const all = { "X-Requested-With": "ashlar", ...headers };
  if (json !== undefined) all["Content-Type"] = "application/json";
  if (shown && !link) all.Authorization = shown;
  const address = addressOf(path, link ? { ...query, link } : query);
  let response;
  try {
    // Without credentials of the browser's own: it would ask for some in a box of its own.
    response = await fetch(address, {
      method,
      body: json === undefined ? body : JSON.stringify(json),
      headers: all,
      signal,
      credentials: "omit",
      cache: "no-store",
    });
  } catch (why) {
    if (why.name === "AbortError") throw why;
    events.dispatchEvent(new Event("lost"));
    throw new Refusal(0, "no_answer", "The server does not answer. Is it running, and is this device online?");
  }
  events.dispatchEvent(new Event("found"));
  if (response.ok) return response;
  throw await refusalOf(response);
}

async function refusalOf(response) {
  const said = await response.json().catch(() => ({}));
  const message = said.message ? sentence(said.message) : `The server answers ${response.status} and says no more.`;
  const refusal = new Refusal(response.status, said.error ?? "", message, said);
  refusal.wait = Number(response.headers.get("Retry-After")) || 0;
  if (refusal.status === 401) events.dispatchEvent(new CustomEvent("login", { detail: refusal }));
  return refusal;
}

/// The server's words begin small and end without a stop.
function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}

async function jsonOf(...asked) {
  const response = await ask(...asked);
  return response.status === 204 ? {} : response.json();
}

const get = (path, query, signal) => jsonOf("GET", path, { query, signal });

/// An entry that lies in this folder, by its whole path.
function placed(entry, folder) {
  const address = canonical(entry.address ?? "");
  const path = folder === null ? address : folder === "" ? address : `${folder}/${address}`;
  return { ...entry, address, path, folder };
}

export const me = () => get("/me");
export const status = (signal) => get("/status", {}, signal);
export const places = (path, signal) => get(`/places/${path}`, {}, signal);

/// What is in a folder, piece by piece: yields lists of entries. What comes first is small, so that something is seen soon.
export async function* list(path, signal) {
  let after;
  do {
    const limit = after === undefined ? 1000 : 10_000;
    const answer = await get(`/entries/${path}`, { after, limit }, signal);
    yield answer.entries.map((entry) => placed(entry, path));
    after = answer.next;
  } while (after);
}

/// Why something was not done: because this path is taken? Then what is there, `file`, `folder`, `link` or `other`; `null` if it is something else.
export async function taken(why, path) {
  if (why.word !== "precondition_failed") return why.answer?.there ?? null;
  const there = await entry(path).catch((refusal) => {
    if (refusal.status !== 404) throw refusal;
    return null;
  });
  return there && there.kind;
}

/// One entry, with its access lists.
export async function entry(path, signal) {
  const at = path.lastIndexOf("/");
  return placed(await get(`/entry/${path}`, {}, signal), path.slice(0, Math.max(at, 0)));
}

/// Looks for names in a tree: yields entries as they are found, and at last `{done, more, looked_at}`.
export async function* search(path, name, signal) {
  const response = await ask("GET", `/search/${path}`, { query: { name, limit: 10_000 }, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const brokeOff = () => new Refusal(0, "broke_off", "The search broke off before its end. Search again.");
  let rest = "";
  let isWhole = false;
  for (;;) {
    const { value, done } = await reader.read().catch((why) => {
      throw why.name === "AbortError" ? why : brokeOff();
    });
    const lines = (rest + (value ?? "")).split("\n");
    rest = lines.pop();
    for (const line of lines.filter(Boolean)) {
      const one = found(JSON.parse(line));
      isWhole ||= Boolean(one.done);
      yield one;
    }
    if (!done) continue;
    if (!isWhole) throw brokeOff();
    return;
  }
}

function found(answer) {
  if (answer.done) return answer;
  if (answer.error) throw new Refusal(500, answer.error, sentence(answer.message));
  const path = canonicalPath(answer.path);
  return placed(answer.entry, path.slice(0, Math.max(path.lastIndexOf("/"), 0)));
}

export async function makeFolder(path) {
  return placed(await jsonOf("POST", `/folders/${path}`), path.slice(0, Math.max(path.lastIndexOf("/"), 0)));
}

/// Each of these may be done in part: then it says what it could not do. Of a move that is what it replaced: it may be there still, in part.
export const move = (from, to, replace = false) => jsonOf("POST", "/move", { json: { from, to, replace } }).then(whole);
export const copy = (from, to, replace = false) => jsonOf("POST", "/copy", { json: { from, to, replace } }).then(whole);
/// For good.
export const remove = (path) => jsonOf("DELETE", `/entries/${path}`, { query: { forever: true } }).then(whole);
/// Into the trash. Answers its id there; `null`: it has other names yet, and is not there. Of a folder that may not go as a whole what
/// may is there, and it fails.
export const discard = (path) =>
  jsonOf("DELETE", `/entries/${path}`, { query: { trash: true } }).then((answer) => {
    whole(answer);
    return answer.trash;
  });

/// What is in the trash, a part of it: `{days, entries, next}`.
export async function trash(after) {
  const answer = await get("/trash", { after, limit: 500 });
  return { ...answer, entries: answer.entries.map((entry) => ({ ...entry, path: canonicalPath(entry.path) })) };
}
/// Out of the trash: where it was, or to another place. Answers where it is now.
export const restore = (id, to, replace = false) =>
  jsonOf("POST", "/trash/restore", { json: { id, to, replace } }).then(({ path }) => ({ path: canonicalPath(path) }));
export const deleteTrashed = (id) => jsonOf("DELETE", `/trash/${id}`);
/// What was deleted before a moment, in milliseconds since 1970.
export const emptyTrash = (before) => jsonOf("DELETE", "/trash", { query: { before } });

function whole(answer) {
  const failures = answer.failures ?? [];
  if (failures.length === 0) return;
  const [first] = failures;
  const others = failures.length - 1 + (answer.more ?? 0);
  const more = others > 0 ? ` So it is with ${others} more.` : "";
  throw new Refusal(207, "in_part", `Not all could be done. ${sentence(first.message)}${more}`);
}

export const links = () => get("/links").then((answer) => answer.links);
export const makeLink = (path, expires) => jsonOf("POST", "/links", { json: { path, expires } });
export const revokeLink = (id) => jsonOf("DELETE", `/links/${encodeURIComponent(id)}`);

/// A whole file in one request. Fails with `precondition_failed` where the name is taken, unless it may replace what has it.
export function put(path, body, { replace, modified }) {
  const headers = replace ? {} : { "If-None-Match": "*" };
  return jsonOf("PUT", `/content/${path}`, { body, headers, query: { modified } });
}

/// A file in pieces. See uploads.js.
export const beginUpload = (path, { replace, size, modified, signal }) =>
  jsonOf("POST", `/uploads/${path}`, { query: { replace, size, modified }, signal });
export const sendPiece = (id, offset, body, signal) =>
  jsonOf("PATCH", `/uploads/${id}`, { query: { offset }, body, signal });
export const standOf = (id, signal) => get(`/uploads/${id}`, {}, signal);
export const finishUpload = (id, query) => jsonOf("POST", `/uploads/${id}/finish`, { query });
/// Those of whoever asks that are not finished: `{id, path, offset, size, silent}`; `path` and `size` only where they are known, `silent` in seconds.
export const uploads = () =>
  get("/uploads").then((answer) =>
    answer.uploads.map((one) => ({ ...one, path: one.path === undefined ? undefined : canonicalPath(one.path) })),
  );
export const endUpload = (id) => jsonOf("DELETE", `/uploads/${id}`);

/// The first bytes of a file.
export async function head(path, length, signal) {
  const response = await ask("GET", `/content/${path}`, { headers: { Range: `bytes=0-${length - 1}` }, signal });
  return new Uint8Array(await response.arrayBuffer());
}

/// The address of a file's bytes, for the browser itself; `fresh`: by a ticket of its own, which is good for the whole hour.
export async function contentAddress(path, { download = false, fresh = download } = {}) {
  return addressOf(`/content/${path}`, { download: download ? "" : undefined, ...(await pass(path, fresh)) });
}

/// The address of a zip of a folder, or of some names in it.
export async function archiveAddress(path, names = []) {
  return addressOf(`/archive/${path}`, { name: names, ...(await pass(path, true)) });
}

async function pass(path, fresh) {
  if (link) return { link };
  if (!isShown()) return {};
  const known = tickets.get(path);
  if (!fresh && known && Date.now() < known.until) return { ticket: known.ticket };
  const { ticket } = await jsonOf("POST", "/ticket", { json: { path } });
  tickets.set(path, { ticket, until: Date.now() + TICKET_KEPT_MS });
  return { ticket };
}
