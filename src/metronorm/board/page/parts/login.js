// The field for the token, shown when the server does not know this browser.

import { ApiError, send } from "../api.js";
import { fill, h } from "../dom.js";
import { failure } from "./messages.js";
import { t } from "../words.js";

let open = false;

export const isAskingForToken = () => open;

export function askForToken(error = null) {
  if (open) return;
  open = true;
  const told = h("div", {}, error && failure(error));
  const field = h("input", { type: "password", id: "token", autocomplete: "off", required: true, class: "field" });
  const form = h(
    "form",
    {
      class: "login",
      on: {
        async submit(event) {
          event.preventDefault();
          try {
            await send("POST", "login", { token: field.value.trim() });
            location.reload();
          } catch (problem) {
            if (!(problem instanceof ApiError)) throw problem;
            fill(told, failure(problem));
          }
        },
      },
    },
    h("h1", {}, t("login.title")),
    h("p", {}, t("login.why")),
    h("label", { for: "token" }, t("login.token")),
    field,
    h("button", { class: "main" }, t("login.go")),
    told,
  );
  fill(document.getElementById("main"), form);
  document.body.classList.add("locked");
  field.focus();
}
