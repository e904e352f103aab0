"""`engine serve`: the HTTP service."""

from __future__ import annotations

import argparse
import gc
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from engine._distribution import install_command
from engine.cli.settings import decoding_options, load_model
from engine.errors import DependencyError

if TYPE_CHECKING:
    from engine.pipeline import SpeechTranslator
    from engine.types import DecodingOptions

KEY_VARIABLE: Final = "ENGINE_API_KEY"
LOCAL: Final = ("127.0.0.1", "::1", "localhost")
EXIT_INTERRUPTED: Final = 130
LAST_S: Final = 1.0  # for cancelled work to notice
_log = logging.getLogger("engine.serve")


def run_serve(options: argparse.Namespace) -> int:
    """Load a model and serve it until told to end."""
    try:
        from engine.serve import ConnectionLimits, ServeSettings, create_app
        from engine.serve.logs import configure_logs
        from engine.serve.middleware.keys import check_keys
        from engine.serve.middleware.origins import check_origins
        from engine.serve.transport import server
    except ImportError as error:
        raise DependencyError(
            f"serving needs a package that is missing ({error.name})",
            "the extra [serve]",
            install_command("serve"),
        ) from error
    settings = ServeSettings(
        max_upload_bytes=options.max_upload_mb << 20,
        max_duration_s=options.max_duration_s,
        max_pending=options.max_pending,
        max_uploads=options.max_uploads,
        upload_timeout_s=options.upload_timeout_s,
        request_timeout_s=options.request_timeout_s,
        drain_s=options.drain_s,
        realtime_sessions=options.realtime_sessions,
        realtime_idle_s=options.realtime_idle_s,
        realtime_max_s=options.realtime_max_s,
        api_keys=_keys(options.api_key),
        cors_origins=tuple(part.strip() for part in options.cors_origins.split(",") if part.strip()),
        connections=ConnectionLimits(max_connections=options.max_connections),
        decoding=decoding_options(options),
    )
    check_keys(settings.api_keys)
    check_origins(settings.cors_origins)
    sockets = server.listen(options.host, options.port)
    configure_logs(options.log_format)
    translator = load_model(options)
    translator.limits = replace(translator.limits, max_duration_s=options.max_duration_s)
    _load_all(translator, settings.decoding)
    if options.host not in LOCAL and not settings.api_keys:
        _log.warning("no --api_key: everybody who reaches this port may use it")
    limits = server.raise_descriptors(settings)
    gc.freeze()  # a look of the collector through all that was imported stops every request for 0.1 s
    app = create_app(translator, settings)
    interrupted = server.run_server(server.build_server(app, limits), sockets)
    server.leave_threads(app.state.service, LAST_S, EXIT_INTERRUPTED if interrupted else 0)
    if interrupted:
        raise KeyboardInterrupt
    return 0


def _keys(given: list[str] | None) -> tuple[str, ...]:
    """Keys of the command line, else those of the environment, separated by commas."""
    if given or KEY_VARIABLE not in os.environ:
        return tuple(given or ())
    return tuple(key.strip() for key in os.environ[KEY_VARIABLE].split(","))


def _load_all(translator: SpeechTranslator, decoding: DecodingOptions) -> None:
    """Load now what the first request would wait for: the service is ready when it listens."""
    if translator.has_second_pass and decoding.passes != 1:
        translator.second_pass  # noqa: B018
    if translator.bundle.has("mt_encoder"):
        translator.translator  # noqa: B018
