"""`engine serve`: the HTTP service."""

from __future__ import annotations

import argparse
import gc
from dataclasses import replace

from engine._distribution import install_command
from engine.cli.settings import decoding_options, load_model
from engine.errors import DependencyError


def run_serve(options: argparse.Namespace) -> int:
    """Load a model and serve it until interrupted."""
    try:
        import uvicorn

        from engine.serve import ServeSettings, create_app
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
        decoding=decoding_options(options),
    )
    translator = load_model(options)
    translator.limits = replace(translator.limits, max_duration_s=options.max_duration_s)
    gc.freeze()  # a look of the collector through all that was imported stops every request for 0.1 s
    uvicorn.run(
        create_app(translator, settings), host=options.host, port=options.port, log_level="info",
        timeout_graceful_shutdown=options.shutdown_s,
    )  # fmt: skip
    return 0
