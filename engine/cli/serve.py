"""`engine serve`: the HTTP service."""

from __future__ import annotations

import argparse
import gc
from dataclasses import replace

from engine._distribution import install_command
from engine.cli.settings import decoding_options, load_model
from engine.errors import DependencyError


def run_serve(options: argparse.Namespace) -> int:
    """Load a model and serve it until told to end."""
    try:
        from engine.serve import ServeSettings, create_app, server
        from engine.serve.logs import configure_logs
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
        drain_s=options.drain_s,
        decoding=decoding_options(options),
    )
    sockets = server.listen(options.host, options.port)
    configure_logs(options.log_format)
    translator = load_model(options)
    translator.limits = replace(translator.limits, max_duration_s=options.max_duration_s)
    limits = server.raise_descriptors(settings)
    gc.freeze()  # a look of the collector through all that was imported stops every request for 0.1 s
    app = create_app(translator, settings)
    interrupted = server.run_server(server.build_server(app, limits), sockets)
    server.leave_threads(app.state.service, 1.0)
    if interrupted:
        raise KeyboardInterrupt
    return 0
