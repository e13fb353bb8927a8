async function update() {
  if (!$("update").checked || document.hidden) return;
  const response = await ask("monitoring", {headers: {"Accept": "text/html"}}).catch(() => null);
  if (!response || !response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  /* Keep the keyboard focus in the part that scrolls. */
  const scrolls = document.activeElement.classList.contains("scroll");
  $("live").replaceWith(page.getElementById("live"));
  if (scrolls && document.querySelector(".scroll")) document.querySelector(".scroll").focus();
}
setInterval(update, 10000);
