const SHAPE = 1.02;
let latest = 0, last = null, shownUrl = null, stream = null;

function percent(share) {
  return share > 0.9995 ? "> 99.9 %" : share < 0.0005 ? "< 0.1 %" : (100 * share).toFixed(1) + " %";
}

function fail(text) {
  $("problem").textContent = text;
  $("problem").hidden = false;
  for (const id of ["verdict", "set", "strange", "shown", "hint"]) $(id).hidden = true;
}

/* Sends the file. Returns the answer, or null if it failed or another image has been chosen since. */
async function post(path, file, turn) {
  const form = new FormData();
  form.append("image", file, file.name || "image");
  const response = await ask(path, {method: "POST", body: form});
  const answer = await response.json().catch(() => ({error: "The server's answer cannot be read."}));
  if (turn !== latest) return null;
  if (response.status === 401) {
    $("key").hidden = false;
    fail(savedKey() ? "Wrong API key." : "This server requires an API key.");
    $("secret").focus();
    return null;
  }
  if (!response.ok) {
    fail(answer.error);
    return null;
  }
  return answer;
}

async function classify(file) {
  const turn = ++latest;
  last = file;
  $("problem").hidden = true;
  $("hint").hidden = false;
  $("hint").textContent = "Classifying …";
  $("result").setAttribute("aria-busy", "true");
  try {
    const answer = await post("predict", file, turn);
    if (!answer) return;
    $("key").hidden = true;
    show(answer, file);
    /* The heat map takes longer: several seconds for the first image. */
    $("looking").hidden = false;
    const explained = await post("explain?class_id=" + answer.top[0].class_id, file, turn);
    if (explained) explain(explained);
  } catch (error) {
    if (turn === latest) fail("The server cannot be reached.");
  } finally {
    if (turn === latest) {
      $("looking").hidden = true;
      $("result").setAttribute("aria-busy", "false");
    }
  }
}

function show(answer, file) {
  $("hint").hidden = true;
  $("verdict").hidden = false;
  $("verdict").textContent = answer.class + ", " + percent(answer.confidence);
  $("set").hidden = !answer.set;
  $("set").textContent = !answer.set ? ""
    : Math.round(100 * answer.coverage) + " % coverage: " + (answer.set.join(" or ") || "unknown (no class is likely enough)");
  $("strange").hidden = answer.unfamiliar !== true;
  $("strange").textContent = answer.unfamiliar === true
    ? "This image is unlike the training images. Do not rely on the answer." : "";
  if (shownUrl) URL.revokeObjectURL(shownUrl);
  shownUrl = URL.createObjectURL(file);
  $("given").src = shownUrl;
  $("pixels").removeAttribute("src");
  $("cam").hidden = true;
  const stretch = answer.width / answer.height / $("resized").dataset.shape;
  $("resized").hidden = Math.max(stretch, 1 / stretch) < SHAPE;
  $("classes").replaceChildren(...answer.top.map((each) => {
    const item = document.createElement("li");
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = each.class;
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.setAttribute("aria-hidden", "true");
    const fill = document.createElement("i");
    fill.style.width = 100 * each.probability + "%";
    bar.append(fill);
    const share = document.createElement("span");
    share.className = "share";
    share.textContent = percent(each.probability);
    item.append(name, bar, share);
    return item;
  }));
  $("shown").hidden = false;
}

function explain(answer) {
  $("pixels").src = answer.pixels;
  $("cam").hidden = !answer.grad_cam;
  if (answer.grad_cam) {
    $("under").src = answer.pixels;
    heat(answer.grad_cam);
  }
}

/* The report of `evaluate` uses the same colours. */
function heat(url) {
  const image = new Image();
  image.onload = () => {
    const context = $("heat").getContext("2d");
    context.clearRect(0, 0, 128, 128);
    context.drawImage(image, 0, 0, 128, 128);
    const drawn = context.getImageData(0, 0, 128, 128);
    for (let i = 0; i < drawn.data.length; i += 4) {
      const strength = drawn.data[i];
      drawn.data[i] = 255;
      drawn.data[i + 1] = 200 - 0.7 * strength;
      drawn.data[i + 2] = 0;
      drawn.data[i + 3] = 0.75 * strength;
    }
    context.putImageData(drawn, 0, 0);
  };
  image.src = url;
}

function take(list) {
  const file = [...(list || [])].find((each) => each.type.startsWith("image/"));
  if (file) classify(file);
  else fail("That file is not an image.");
}

$("file").addEventListener("change", () => { if ($("file").files.length) take($("file").files); $("file").value = ""; });
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
}
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) take(event.clipboardData.files); });
for (const button of document.querySelectorAll(".sample")) {
  button.addEventListener("click", () => {
    const image = button.querySelector("img");
    const bytes = Uint8Array.from(atob(image.src.split(",")[1]), (c) => c.charCodeAt(0));
    classify(new File([bytes], "sample.png", {type: "image/png"}));
  });
}
$("key").addEventListener("submit", (event) => {
  event.preventDefault();
  saveKey($("secret").value);
  if (last) classify(last);
});

function stopCamera() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  $("live").hidden = true;
}
if (!navigator.mediaDevices) $("camera").hidden = true;
$("camera").addEventListener("click", async () => {
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment"}});
    $("video").srcObject = stream;
    $("live").hidden = false;
    await $("video").play();
    $("snap").focus();
  } catch (error) {
    stopCamera();
    fail("The camera cannot be used: " + error.message);
  }
});
$("stop").addEventListener("click", () => { stopCamera(); $("camera").focus(); });
$("snap").addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  canvas.width = $("video").videoWidth;
  canvas.height = $("video").videoHeight;
  canvas.getContext("2d").drawImage($("video"), 0, 0);
  canvas.toBlob((blob) => { stopCamera(); $("camera").focus(); classify(blob); }, "image/png");
});
