const make = (tag, text, ...children) => {
  const node = document.createElement(tag);
  node.textContent = text ?? "";
  node.append(...children);
  return node;
};
const table = rows => make("table", "", ...rows.map(cells => make("tr", "", ...cells.map(text => make("td", text)))));
const typeName = part => part.type === "array" ? "array" : part.type ?? "";

function responseFields(api, response) {
  const name = response.content?.["application/json"]?.schema?.$ref?.split("/").at(-1);
  const properties = api.components.schemas[name]?.properties ?? {};
  return Object.entries(properties).map(([key, part]) => [key, typeName(part), part.description ?? ""]);
}

function operationSection(api, path, method, operation) {
  const parts = [make("h2", path), make("p", operation.description)];
  parts[0].prepend(make("b", method.toUpperCase()));
  if (operation.requestBody) {
    parts.push(make("h3", "Body"), make("p", operation.requestBody.description));
    parts.push(table(Object.keys(operation.requestBody.content).map(type => [type])));
  }
  const fields = responseFields(api, operation.responses["200"]);
  if (fields.length) parts.push(make("h3", "Response"), table(fields));
  parts.push(make("h3", "Status"));
  parts.push(table(Object.entries(operation.responses).map(([code, response]) => [code, response.description])));
  return make("section", "", ...parts);
}

fetch("/openapi.json").then(response => response.json()).then(api => {
  document.getElementById("summary").textContent = api.info.summary;
  document.getElementById("curl").textContent =
    `curl --data-binary @frame.jpg -H 'Content-Type: image/jpeg' ${location.origin}/count\n` +
    `curl -F file=@frame.jpg ${location.origin}/count`;
  for (const [path, methods] of Object.entries(api.paths))
    for (const [method, operation] of Object.entries(methods))
      document.getElementById("operations").append(operationSection(api, path, method, operation));
});
