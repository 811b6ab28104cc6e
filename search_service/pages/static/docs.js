// The API's description by Swagger UI; without it the plain list stays.

const place = document.getElementById("swagger");
if (window.SwaggerUIBundle !== undefined) {
  document.getElementById("plain").hidden = true;
  window.SwaggerUIBundle({
    domNode: place,
    url: place.dataset.document,
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    validatorUrl: null,
    tryItOutEnabled: false,
  });
}
