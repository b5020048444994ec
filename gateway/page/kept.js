// What the browser keeps for the page. Some keep nothing (private windows, blocked data, no room): then it is known until the page is closed.

const here = new Map();

/// A text that was kept; `null`: none was. `store` names the browser's: `localStorage`, or `sessionStorage` for this tab alone.
export function kept(name, store = "localStorage") {
  if (here.has(name)) return here.get(name);
  try {
    return globalThis[store].getItem(name);
  } catch {
    return null;
  }
}

/// Keeps a text; `null`: not any more.
export function keep(name, text, store = "localStorage") {
  here.delete(name);
  try {
    if (text === null) globalThis[store].removeItem(name);
    else globalThis[store].setItem(name, text);
  } catch {
    if (text !== null) here.set(name, text);
  }
}
