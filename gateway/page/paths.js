// Paths as the API has them: names percent-encoded, joined by slashes, without one at the beginning; the root is "". Names are bytes, so
// a path is never decoded but to be shown.

const BARE = /^[A-Za-z0-9\-._~]*$/;
const LONGEST = 255;

/// What a name is in a path.
export function encode(name) {
  return encodeURIComponent(name).replace(/[!'()*]/g, (one) => `%${one.charCodeAt(0).toString(16).toUpperCase()}`);
}

/// An encoded name in the one way of writing it that is compared here.
export function canonical(address) {
  if (BARE.test(address)) return address;
  const hex = (byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  const write = (byte) => (BARE.test(String.fromCharCode(byte)) ? String.fromCharCode(byte) : hex(byte));
  return Array.from(bytesOf(address), write).join("");
}

/// The same of a whole path. `.` and `..` are no names: browsers would fold them, and ask for another address.
export function canonicalPath(path) {
  const isName = (name) => name !== "" && name !== "." && name !== "..";
  return path.split("/").map(canonical).filter(isName).join("/");
}

/// A name, or a path, as it is shown; bytes that are no text are shown as such.
export function decode(address) {
  return address.includes("%") ? new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytesOf(address)) : address;
}

function bytesOf(address) {
  const bytes = [];
  for (let at = 0; at < address.length; at += 1) {
    const code = /^%[0-9a-f]{2}$/i.test(address.slice(at, at + 3)) && parseInt(address.slice(at + 1, at + 3), 16);
    if (code !== false) {
      bytes.push(code);
      at += 2;
    } else {
      // Two halves of one character are encoded together.
      const whole = String.fromCodePoint(address.codePointAt(at));
      bytes.push(...new TextEncoder().encode(whole));
      at += whole.length - 1;
    }
  }
  return Uint8Array.from(bytes);
}

/// What lies in a folder under this encoded name.
export function join(folder, address) {
  return folder === "" ? address : `${folder}/${address}`;
}

/// The folder that something lies in.
export function parent(path) {
  return path.slice(0, Math.max(path.lastIndexOf("/"), 0));
}

/// Its own encoded name.
export function last(path) {
  return path.slice(path.lastIndexOf("/") + 1);
}

/// Is it this folder, or in it, however deep?
export function isWithin(path, folder) {
  return folder === "" || path === folder || path.startsWith(`${folder}/`);
}

/// Why nothing can have this name; `null`: it can.
export function whyNoName(name) {
  if (name === "") return "A name has at least one character.";
  if (name === "." || name === "..") return "“.” and “..” are no names.";
  if (/[/\0]/.test(name)) return "A name has no slash.";
  if (new TextEncoder().encode(name).length > LONGEST)
    return `A name has at most ${LONGEST} bytes; this one is longer.`;
  return null;
}

/// Name and extension: `["photo", ".jpg"]`. Of a folder all is its name.
export function stem(name, isFolder = false) {
  const dot = isFolder ? -1 : name.lastIndexOf(".");
  return dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
}

/// The same name with a number: `photo (2).jpg`.
export function numbered(name, number, isFolder = false) {
  const [before, after] = stem(name, isFolder);
  return `${before} (${number})${after}`;
}
