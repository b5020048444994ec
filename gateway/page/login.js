// The form that asks who somebody is.

import * as api from "./api.js";
import { button, fill, h } from "./dom.js";

/// Asks until somebody is let in; then calls `onlogin`. `why` is what was said at last, if anything was.
export function loginForm({ why = "", onlogin }) {
  const field = (id, label, type, autocomplete) => {
    const input = h("input", { id, type, autocomplete, spellcheck: "false", autocapitalize: "none" });
    return { input, element: h("div", { class: "field" }, h("label", { for: id }, label), input) };
  };
  const name = field("login-name", "Name", "text", "username");
  const password = field("login-password", "Password", "password", "current-password");
  const token = field("login-token", "Token", "password", "off");
  const wrong = h("p", { class: "wrong", role: "alert" }, why);
  const by = { name: h("div", {}, name.element, password.element), token: h("div", { hidden: true }, token.element) };
  const isToken = () => by.name.hidden;
  const other = button("Log in with a token instead", {
    kind: "textual",
    onclick: () => {
      by.token.hidden = by.name.hidden;
      by.name.hidden = !by.token.hidden;
      fill(other, isToken() ? "Log in with name and password" : "Log in with a token instead");
      (isToken() ? token : name).input.focus();
    },
  });
  const submit = h("button", { type: "submit", class: "primary" }, "Log in");
  const form = h(
    "form",
    {
      class: "login",
      onsubmit: async (event) => {
        event.preventDefault();
        submit.disabled = true;
        fill(wrong);
        api.showAs(
          isToken() ? `Bearer ${token.input.value.trim()}` : api.basic(name.input.value, password.input.value),
        );
        try {
          onlogin(await api.me());
        } catch (refused) {
          api.showAs(null);
          fill(wrong, refused.message, refused.wait > 1 ? ` Try again in ${refused.wait} seconds.` : "");
        }
        submit.disabled = false;
      },
    },
    h("img", { src: "/page/icon.svg", alt: "", width: "48", height: "48" }),
    h("h1", {}, "Log in"),
    by.name,
    by.token,
    wrong,
    submit,
    other,
  );
  setTimeout(() => name.input.focus());
  return h("main", { class: "alone" }, form);
}
