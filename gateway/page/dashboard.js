// How the volume is, for administrators: its health, disks and machines, what is being healed, and how busy it is. Asked again every two
// seconds while somebody looks.

import * as api from "./api.js";
import { fill, h, icon } from "./dom.js";
import { Plot } from "./plot.js";
import { bytes, counted, moment, number, span } from "./words.js";

const EVERY_MS = 2000;
const KEPT_MS = 5 * 60_000;
const HEALTH = {
  healthy: ["Healthy", "good"],
  degraded: ["Degraded", "fair"],
  "data-unavailable": ["Data unavailable", "bad"],
  unknown: ["Not known yet", "fair"],
};

export class Dashboard {
  constructor() {
    this.wrong = h("div", { class: "wrong", role: "alert" });
    this.health = h("section", { class: "card health", "aria-live": "polite" });
    this.heal = h("section", { class: "card" });
    this.disks = h("section", { class: "card wide" });
    this.volumes = h("section", { class: "card" });
    this.sessions = h("section", { class: "card" });
    this.errors = h("section", { class: "card wide" });
    this.through = new Plot({
      title: "Throughput",
      kept_ms: KEPT_MS,
      words: (n) => `${bytes(n)}/s`,
      lines: [
        { name: "one", title: "Read" },
        { name: "two", title: "Written" },
      ],
    });
    this.latency = new Plot({
      title: "Latency, 99 of 100 faster",
      kept_ms: KEPT_MS,
      words: micros,
      lines: [
        { name: "one", title: "Read" },
        { name: "two", title: "Write" },
      ],
    });
    this.element = h(
      "main",
      { class: "dashboard", id: "main", tabindex: "-1" },
      h("h1", { class: "unseen" }, "Status"),
      this.wrong,
      this.health,
      this.heal,
      this.through.element,
      this.latency.element,
      this.disks,
      this.volumes,
      this.sessions,
      this.errors,
    );
  }

  open() {
    this.timer ??= setInterval(() => document.hidden || this.ask(), EVERY_MS);
    this.ask();
  }

  close() {
    clearInterval(this.timer);
    this.timer = null;
  }

  async ask() {
    if (this.asking) return;
    this.asking = true;
    try {
      this.draw(await api.status());
      fill(this.wrong);
    } catch (why) {
      fill(this.wrong, why.message);
    } finally {
      this.asking = false;
    }
  }

  draw(status) {
    const mount = status.mount ?? {};
    this.drawHealth(mount, status);
    this.drawHeal(mount.heal);
    this.drawDisks(status.disks ?? []);
    this.drawPlots(status.throughput);
    fill(
      this.volumes,
      ...table("Volumes", status.volumes ?? [], [
        ["Name", (one) => one.name ?? `number ${one.number}`],
        ["Scheme", (one) => one.scheme ?? ""],
        ["State", stateOf],
      ]),
      status.volumes_missed
        ? h("p", { class: "warning" }, icon("warning"), `There may be more: ${status.volumes_missed}`)
        : null,
    );
    fill(
      this.sessions,
      ...table("Sessions", status.sessions ?? [], [
        ["Session", (one) => one.session ?? one.id ?? ""],
        ["Machine", (one) => one.host ?? ""],
        ["Process", (one) => one.pid ?? ""],
        ["Since", (one) => (one.since ? moment(one.since) : "")],
        ["Doors", (one) => (one.doors ?? []).join(", ")],
      ]),
    );
    fill(
      this.errors,
      ...table(
        "Last errors",
        status.errors ?? [],
        [
          ["When", (one) => (one.at ? moment(one.at) : "now")],
          ["What", (one) => one.message],
        ],
        "None.",
      ),
    );
  }

  drawHealth(mount, status) {
    const heal = mount.heal ?? { health: "unknown", line: "" };
    const [word, mood] = HEALTH[heal.health] ?? [heal.health, "fair"];
    const used = (mount.capacity ?? 0) - (mount.available ?? 0);
    const spare = (heal.counts?.by_spare ?? []).findIndex((count) => count > 0);
    this.health.dataset.mood = mood;
    fill(
      this.health,
      h("h2", {}, mount.volume ?? "Volume"),
      h("p", { class: "word" }, icon(mood === "good" ? "check" : "warning"), word),
      h("p", { class: "line" }, heal.line.replace(/^[A-Z ]+: /, "")),
      h(
        "dl",
        { class: "figures" },
        figure("Spare losses", spare < 0 ? "–" : spare),
        figure("Scheme", mount.scheme ?? "–"),
        figure("Free", mount.capacity ? `${bytes(mount.available)} of ${bytes(mount.capacity)}` : "–"),
        figure("Files", number(mount.inodes ?? 0)),
        figure("Not stored yet", bytes(mount.dirty_bytes ?? 0)),
        figure("Version", status.version ?? "–"),
      ),
      mount.capacity ? meter("Room in use", used, mount.capacity) : null,
      mount.safety ? h("p", { class: "small" }, mount.safety) : null,
      mount.no_writes ? h("p", { class: "wrong" }, mount.no_writes) : null,
      (mount.warnings ?? []).map((warning) => h("p", { class: "warning" }, icon("warning"), warning)),
    );
  }

  drawHeal(heal) {
    if (!heal) return fill(this.heal, h("h2", {}, "Healing"), h("p", { class: "quiet" }, "Nothing is known of it."));
    const busy = heal.queue > 0;
    const all = heal.mended_bytes + heal.bytes_left;
    return fill(
      this.heal,
      h("h2", {}, "Healing"),
      h(
        "p",
        { class: "line" },
        busy
          ? `${counted(heal.queue, "blob")} to mend, ${bytes(heal.bytes_left)}`
          : heal.counting
            ? "Counting blobs"
            : "Nothing to mend.",
      ),
      busy ? h("progress", { max: "1", value: all ? heal.mended_bytes / all : 0, "aria-label": "Healing" }) : null,
      h(
        "dl",
        { class: "figures" },
        figure("Rate", busy ? `${bytes(heal.rate)}/s` : "–"),
        figure(
          "Time left",
          heal.seconds_left === null || heal.seconds_left === undefined ? "–" : span(heal.seconds_left),
        ),
        figure("Mended", `${counted(heal.mended_blobs, "blob")}, ${bytes(heal.mended_bytes)}`),
        figure("Disks away", `${heal.disks_away} of ${heal.disks}`),
      ),
      [...heal.waiting, ...heal.stuck].map(({ what, why }) =>
        h("p", { class: "warning" }, icon("warning"), `${what}: ${why}`),
      ),
      heal.lost.length ? h("p", { class: "wrong" }, `Lost for good: ${counted(heal.counts.lost, "blob")}`) : null,
    );
  }

  drawDisks(disks) {
    const hosts = new Map();
    for (const disk of disks) hosts.set(disk.domain, [...(hosts.get(disk.domain) ?? []), disk]);
    const up = disks.filter((disk) => disk.state === "up").length;
    fill(
      this.disks,
      h("h2", {}, `Disks, ${up} of ${disks.length} up`),
      [...hosts].map(([host, some]) =>
        h(
          "div",
          { class: "host" },
          hosts.size > 1 || host ? h("h3", {}, host || "one machine") : null,
          h("ul", { class: "disk-cards" }, some.map(diskCard)),
        ),
      ),
    );
  }

  drawPlots(totals) {
    if (!totals) return;
    const at = Date.now();
    const rate = (name) => {
      const before = this.before?.totals[name];
      return before === undefined ? null : Math.max(totals[name] - before, 0) / ((at - this.before.at) / 1000);
    };
    this.through.add(at, [rate("read_bytes"), rate("written_bytes")]);
    const { latency_us: latency = {} } = totals;
    this.latency.add(at, [latency.read_p99 ?? null, latency.write_p99 ?? null]);
    this.before = { at, totals };
  }
}

/// How a volume is, as `ashlar volume list` says.
function stateOf({ state, reason, mounted }) {
  if (reason) return `${state}: ${reason}`;
  if (state !== "whole") return state;
  if (!mounted) return "not mounted on this machine";
  return mounted.mountpoint ? `mounted at ${mounted.mountpoint}` : "served by doors alone";
}

function diskCard(disk) {
  const good = disk.state === "up";
  return h(
    "li",
    { "data-state": good ? "up" : "down", title: `${disk.disk} at ${disk.place}` },
    h("p", { class: "title" }, icon("disk"), `Disk ${disk.index}`, h("span", { class: "state" }, good ? "up" : "away")),
    meter(`Disk ${disk.index}`, disk.used, disk.capacity),
    h("p", { class: "small" }, good ? `${bytes(disk.used)} of ${bytes(disk.capacity)}` : disk.state),
    h("p", { class: "small place" }, disk.place),
  );
}

function meter(label, value, most) {
  const part = most ? value / most : 0;
  return h(
    "meter",
    { min: "0", max: "1", low: "0.85", high: "0.95", optimum: "0", value: part, "aria-label": label },
    `${Math.round(part * 100)} %`,
  );
}

function figure(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, String(value)));
}

function micros(us) {
  return us < 1000
    ? `${Math.round(us)} µs`
    : us < 1e6
      ? `${(us / 1000).toFixed(us < 1e4 ? 1 : 0)} ms`
      : `${(us / 1e6).toFixed(1)} s`;
}

function table(title, rows, columns, empty = "None.") {
  if (rows.length === 0) return [h("h2", {}, title), h("p", { class: "quiet" }, empty)];
  return [
    h("h2", {}, title),
    h(
      "div",
      { class: "table", role: "region", "aria-label": title, tabindex: "0" },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            columns.map(([name]) => (name ? h("th", { scope: "col" }, name) : h("td", {}))),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map((row) =>
            h(
              "tr",
              {},
              columns.map(([, of]) => h("td", {}, String(of(row)))),
            ),
          ),
        ),
      ),
    ),
  ];
}
