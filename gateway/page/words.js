// Numbers, times and lengths as people read them.

const UNITS = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// `1.5 MiB`.
export function bytes(n) {
  if (n < 1024) return `${Math.round(n)} B`;
  let unit = -1;
  do {
    n /= 1024;
    unit += 1;
  } while (n >= 1024 && unit + 1 < UNITS.length);
  return `${n < 10 ? n.toFixed(1) : Math.round(n)} ${UNITS[unit]}`;
}

/// `12,345`.
export function number(n) {
  return n.toLocaleString("en");
}

/// `1 file`, `12 files`.
export function counted(n, one, many = `${one}s`) {
  return `${number(n)} ${n === 1 ? one : many}`;
}

/// Beyond these there is no date, and browsers refuse to write one; files may have such times.
const isDate = (ms) => Math.abs(ms) <= 8.64e15;
const NO_DATE = "–";

/// A moment, given in milliseconds since 1970, in this reader's own way of writing it.
export function moment(ms) {
  if (!isDate(ms)) return NO_DATE;
  return new Date(ms).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

const DAY = new Intl.DateTimeFormat([], { day: "numeric", month: "short", year: "numeric" });
const HOUR = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });

/// The same, short: the time of today, the day of all others.
export function shortMoment(ms) {
  if (!isDate(ms)) return NO_DATE;
  const then = new Date(ms);
  return then.toDateString() === new Date().toDateString() ? HOUR.format(then) : DAY.format(then);
}

/// `4 min`.
export function span(seconds) {
  if (seconds < 100) return `${Math.ceil(seconds)} s`;
  if (seconds < 6000) return `${Math.ceil(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.ceil(seconds / 3600)} h`;
  return `${Math.ceil(seconds / 86400)} days`;
}

/// What some entries are: `2 folders and 1 file`.
export function what(entries) {
  const folders = entries.filter((entry) => entry.kind === "folder").length;
  const files = entries.length - folders;
  const parts = [folders && counted(folders, "folder"), files && counted(files, "file")];
  return parts.filter(Boolean).join(" and ");
}
