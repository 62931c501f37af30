"""Every HTTP route that does not score: probes, metadata, the repository, metrics, documentation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

import anomvae
from anomvae.errors import AnomvaeError, RequestError
from anomvae.serving.docs_page import docs_page
from anomvae.serving.exchange import JSON
from anomvae.serving.http_front import MAX_BUFFERED_BYTES, HttpFront, told
from anomvae.serving.metadata import calibration_facts, model_config, model_metadata, repository_index, server_metadata
from anomvae.serving.openapi import openapi

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from anomvae.serving.bodies import BodyLimits
    from anomvae.serving.service import Service

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def make_app(
    service: Service, limits: BodyLimits | None = None, max_buffered_bytes: int = MAX_BUFFERED_BYTES
) -> ASGIApp:
    """The ASGI application of a service.

    Args:
        service: What answers.
        limits: Of bodies.
        max_buffered_bytes: Most bytes of bodies held while they arrive, over all requests.
    """
    routes = _Routes(service)
    others = Starlette(
        routes=routes.table(),
        exception_handlers={
            HTTPException: _http_error,
            AnomvaeError: _refusal,
            Exception: _refusal,
        },
    )
    others.router.redirect_slashes = False
    return HttpFront(service, others, limits, max_buffered_bytes)


class _Routes:
    """The handlers, by what they tell."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def table(self) -> list[Route]:
        get, post = ["GET"], ["POST"]
        model = "/v2/models/{name}"
        return [
            Route("/v2/health/live", self.live, methods=get),
            Route("/v2/health/ready", self.ready, methods=get),
            Route("/v2", self.server, methods=get),
            *(
                route
                for base in (model, model + "/versions/{version}")
                for route in (
                    Route(base, self.metadata, methods=get),
                    Route(base + "/ready", self.model_ready, methods=get),
                    Route(base + "/config", self.config, methods=get),
                    Route(base + "/infer", _scored_elsewhere, methods=post),
                )
            ),
            Route("/v2/repository/index", self.index, methods=post),
            Route("/v2/repository/models/{name}/load", self.load, methods=post),
            Route("/v1/models", self.models, methods=get),
            Route("/v1/models/{name}/score", _scored_elsewhere, methods=post),
            Route("/invocations", _scored_elsewhere, methods=post),
            Route("/ping", self.ready, methods=get),
            Route("/health", self.ready, methods=get),
            Route("/version", self.version, methods=get),
            Route("/metrics", self.metrics, methods=get),
            Route("/openapi.json", self.openapi, methods=get),
            Route("/docs", self.docs, methods=get),
        ]

    async def live(self, _: Request) -> Response:
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        ready = self._service.ready
        return _json({"ready": ready}, status=200 if ready else 503)

    async def server(self, _: Request) -> Response:
        return _json(server_metadata())

    async def metadata(self, request: Request) -> Response:
        return _json(model_metadata(self._named(request)))

    async def model_ready(self, request: Request) -> Response:
        model = self._named(request)
        return _json({"name": model.name, "ready": True})

    async def config(self, request: Request) -> Response:
        return _json(model_config(self._named(request)))

    async def index(self, _: Request) -> Response:
        return _json(repository_index(self._service.models.current))

    async def load(self, request: Request) -> Response:
        await self._service.load(request.path_params["name"])
        return _json({})

    async def models(self, _: Request) -> Response:
        return _json({"models": [_described(model) for model in self._service.models.current]})

    async def version(self, _: Request) -> Response:
        return Response(anomvae.__version__, media_type="text/plain")

    async def metrics(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        body, media_type = await asyncio.to_thread(self._service.metrics.render, accept)
        return Response(body, headers={"content-type": media_type})

    async def openapi(self, _: Request) -> Response:
        return _json(self._document())

    async def docs(self, request: Request) -> Response:
        page = docs_page(self._document(), str(request.base_url).rstrip("/"))
        return Response(page, media_type="text/html", headers={"content-security-policy": PAGE_POLICY})

    def _document(self) -> dict[str, Any]:
        return openapi(self._service.models.current, secured=self._service.tokens.wanted)

    def _named(self, request: Request) -> Any:
        named = request.path_params
        return self._service.models.get(named["name"], named.get("version", ""))


def _described(model: Any) -> dict[str, Any]:
    manifest = model.manifest
    calibration = manifest.calibration
    return {
        "name": model.name,
        "version": model.version,
        "kind": manifest.model,
        "columns": [
            {
                "name": column.name,
                "kind": column.kind,
                "low": column.low,
                "high": column.high,
                "categories": list(column.categories),
            }
            for column in manifest.columns
        ],
        "carried": list(manifest.carried),
        "alarm_rate": calibration.alarm_rate,
        "smallest_alarm_rate": calibration.smallest_alarm_rate,
        "decision": calibration.decision,
        "score_threshold": calibration.score_threshold,
        "reconstruction_threshold": calibration.reconstruction_threshold,
        "calibration": calibration_facts(manifest),
        "created": manifest.provenance.created,
    }


async def _scored_elsewhere(_: Request) -> Response:
    raise RequestError("this route scores; it is answered before it comes here")


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type=JSON)


async def _refusal(_: Request, error: Exception) -> Response:
    status, body, headers = told(error)
    return Response(body, status_code=status, headers=dict(headers), media_type=JSON)


async def _http_error(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    said = {
        404: "there is no such route; GET /docs lists them",
        405: "this route does not take that method; GET /docs lists them",
    }
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    body = orjson.dumps({"error": said.get(status, "the request cannot be served")})
    return Response(body, status_code=status, headers=headers, media_type=JSON)
