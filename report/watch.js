"use strict";
// Looks again every few seconds, and puts in place what has changed; what is unfolded or scrolled elsewhere stays.

const every = Number(document.body.dataset.every) * 1000;

async function lookAgain() {
  if (document.hidden) return;
  const note = document.getElementById("connection");
  try {
    const answer = await fetch("/", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of page.querySelectorAll("section[id], header[id]")) {
      const shown = document.getElementById(part.id);
      if (shown && shown.innerHTML !== part.innerHTML) shown.replaceWith(document.adoptNode(part));
    }
    note.hidden = true;
  } catch {
    note.hidden = false;
  }
}

setInterval(lookAgain, every);
