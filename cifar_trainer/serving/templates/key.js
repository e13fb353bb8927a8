/* Requests the same URL with the key, and replaces this page with the answer. */
async function open() {
  const response = await ask(location.href, {headers: {"Accept": "text/html"}}).catch(() => null);
  if (response === null || response.status === 401) {
    $("problem").textContent = response ? "Wrong API key." : "The server cannot be reached.";
    $("problem").hidden = false;
    $("secret").focus();
    return;
  }
  const text = await response.text();
  if ((response.headers.get("Content-Type") || "").startsWith("text/html")) {
    document.open();
    document.write(text);
    document.close();
  } else {
    $("key").hidden = true;
    $("text").textContent = text;
    $("text").hidden = false;
  }
}

$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  saveKey($("secret").value);
  open();
});
if (savedKey()) open();
