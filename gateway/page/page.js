// The page: lets somebody in, and shows what the address says. Behind the `#` is `/`, the path of a folder, and `?find=` (a search there) or
// `?open=` (a file that is looked into); or `status`, the dashboard; or `trash`. So history, reload and links work as everywhere.

import * as api from "./api.js";
import { Dashboard } from "./dashboard.js";
import { askConflict } from "./dialogs.js";
import { button, fill, h, icon } from "./dom.js";
import { Files, addressOf } from "./files.js";
import { help, keyOf } from "./keys.js";
import { loginForm } from "./login.js";
import { canonicalPath } from "./paths.js";
import { apply, themeButton } from "./theme.js";
import { Trash } from "./trash.js";
import { Uploads } from "./uploads.js";
import { UploadsView } from "./uploads-view.js";

const AGAIN_MS = 2000;
const STATUS = "#status";
const TRASH = "#trash";

const page = document.getElementById("page");
// What is being sent goes on while somebody logs in again.
const uploads = new Uploads(askConflict);
const uploadsView = new UploadsView(uploads);

/// What the address says.
function route() {
  const [path, asked = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const query = new URLSearchParams(asked);
  return { path: canonicalPath(path), find: query.get("find") ?? "", open: query.get("open") ?? "" };
}

/// The page of somebody who was let in.
class Shell {
  constructor(me) {
    this.me = me;
    this.find = h("input", {
      type: "search",
      id: "search",
      placeholder: "Search by name",
      "aria-label": "Search by name, in this folder and all below",
      autocomplete: "off",
    });
    this.files = new Files({
      me,
      uploads,
      go: (to, replace) => this.go(to, replace),
      search: () => this.find.select(),
    });
    this.lost = h("div", { class: "banner", role: "alert", hidden: true });
    this.place = h("div", { class: "place" });
    const views = [
      ["Files", "files", "#/"],
      ["Trash", "delete", TRASH],
      ["Status", "status", me.admin ? STATUS : null],
    ];
    this.tabs = api.link
      ? []
      : views
          .filter(([, , href]) => href !== null)
          .map(([name, picture, href]) => h("a", { href, class: "tab" }, icon(picture), h("span", {}, name)));
    fill(
      page,
      h("a", { class: "skip", href: "#main", onclick: (event) => this.skip(event) }, "To the content"),
      this.header(),
      this.lost,
      this.place,
      uploadsView.element,
    );
    addEventListener("hashchange", this.follow);
    document.addEventListener("keydown", this.key);
    this.follow();
  }

  header() {
    const { me } = this;
    const search = h(
      "form",
      {
        class: "search",
        role: "search",
        onsubmit: (event) => {
          event.preventDefault();
          this.go({ path: route().path, find: this.find.value.trim() });
          this.files.focus();
        },
      },
      icon("search"),
      this.find,
    );
    const who = me.user ? h("span", { class: "who", title: me.user }, icon("user"), h("span", {}, me.user)) : null;
    const out =
      api.isShown() && !api.link
        ? button("Log out", { picture: "logout", textless: true, onclick: () => logOut() })
        : null;
    return h(
      "header",
      { class: "top" },
      h(
        "a",
        { class: "brand", href: "#/", title: "To the top folder" },
        h("img", { src: "/page/icon.svg", alt: "", width: "28", height: "28" }),
        h("span", {}, api.link ? "Shared with you" : me.volume),
      ),
      h("nav", { "aria-label": "Views", class: "tabs" }, this.tabs),
      search,
      h(
        "div",
        { class: "own" },
        who,
        button("Keys", { picture: "help", textless: true, kind: "plain may-hide", onclick: () => help() }),
        themeButton(),
        out,
      ),
    );
  }

  /// Shows what the address says.
  follow = () => {
    const shown = this.tabs.find((tab) => tab.getAttribute("href") === location.hash) ?? this.tabs[0];
    for (const tab of this.tabs) {
      if (tab === shown) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    this.dashboard?.close();
    const view = shown?.getAttribute("href");
    if (view === TRASH) {
      this.trash ??= new Trash({ me: this.me, go: (to) => this.go(to) });
      fill(this.place, this.trash.element);
      return this.trash.open();
    }
    if (view === STATUS) {
      this.dashboard ??= new Dashboard();
      fill(this.place, this.dashboard.element);
      document.title = "Status – Ashlar";
      return this.dashboard.open();
    }
    const to = route();
    this.find.value = to.find;
    const isBack = !this.files.element.isConnected;
    if (isBack) fill(this.place, this.files.element);
    const showing = this.files.show(to);
    // What came out of the trash meanwhile is to be seen.
    if (isBack && this.files.state === "read") this.files.reload();
    return showing;
  };

  go(to, replace = false) {
    const address = addressOf(to);
    if (!replace) return void (location.hash = address);
    history.replaceState(null, "", address);
    return this.follow();
  }

  skip(event) {
    event.preventDefault();
    document.getElementById("main").focus();
  }

  key = (event) => {
    if (event.target.closest?.("input, textarea, select, dialog, [role=menu]")) return;
    const key = keyOf(event, { beside: event.target.closest?.("button, a") });
    if (!key || (!this.files.element.isConnected && key.does !== "help")) return;
    event.preventDefault();
    this.files.keyboard[key.does](event);
  };

  /// Nobody answers: says so, and asks again until somebody does.
  async wait() {
    if (!this.lost.hidden) return;
    this.lost.hidden = false;
    fill(this.lost, icon("warning"), "No connection to the server. Trying again by itself.");
    while (!this.lost.hidden) {
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      await api.me().catch(() => {});
    }
    if (this.files.element.isConnected) this.files.state === "wrong" ? this.files.load() : this.files.reload();
  }

  close() {
    removeEventListener("hashchange", this.follow);
    document.removeEventListener("keydown", this.key);
    this.files.close();
    this.dashboard?.close();
    this.lost.hidden = true;
  }
}

let shell = null;

function enter(me) {
  shell?.close();
  uploads.enter(me.user);
  if (me.write && !api.link) uploads.look();
  shell = new Shell(me);
}

function askWho(why) {
  uploads.hold();
  shell?.close();
  shell = null;
  document.title = "Log in – Ashlar";
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  fill(page, loginForm({ why, onlogin: enter }));
}

function logOut() {
  for (const job of [...uploads.jobs]) uploads.cancel(job);
  api.showAs(null);
  start();
}

/// Nobody lets anybody in: says why, and has it tried again.
function alone(why) {
  shell = null;
  fill(
    page,
    h(
      "main",
      { class: "alone" },
      h(
        "div",
        { class: "login" },
        icon("warning"),
        h("h1", {}, api.link ? "This link opens nothing" : "The files cannot be shown"),
        h("p", { role: "alert" }, why.message),
        button("Try again", { kind: "primary", picture: "again", onclick: () => start() }),
      ),
    ),
  );
}

async function start() {
  try {
    enter(await api.me());
  } catch (why) {
    // A login that is over is no reason to frighten anybody.
    if (why.status === 401 && !api.link) askWho(api.isShown() ? why.message : "");
    else alone(why);
  }
}

api.events.addEventListener("lost", () => shell?.wait());
api.events.addEventListener("found", () => shell && (shell.lost.hidden = true));
api.events.addEventListener("login", ({ detail }) => shell && askWho(detail.message));

apply();
start();
