// A button that puts a text into the clipboard: at once, since a browser allows it only while the click lasts.

function render({ model, el }) {
  const button = document.createElement("button");
  button.className = "jupyter-button widget-button lm-Widget nmg-copy-button";
  button.textContent = model.get("label");
  el.append(button);

  const copied = async () => {
    const text = model.get("text");
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Pages without the right to the clipboard: an old way that needs a selection.
      const field = document.createElement("textarea");
      field.value = text;
      document.body.append(field);
      field.select();
      const done = document.execCommand("copy");
      field.remove();
      return done;
    }
  };
  button.onclick = async () => model.send({ copied: Boolean(model.get("text")) && (await copied()) });
}

export default { render };
