"""The engine: a family of sizes behind one vLLM engine.  The only package that imports vLLM."""

import logging

ARCHITECTURE = "BoomerangForCausalLM"
"""The architecture name under which vLLM knows the routed model."""


def register() -> None:
    """Entry point of the group `vllm.general_plugins`; vLLM calls it in each of its processes.

    Registers the model by string, so that vLLM imports it only where a model is loaded.  What
    fails is logged and raised again: a worker without the model must not start.
    """
    from server.engine import compat

    try:
        compat.check_version()
        registry = compat.ModelRegistry
        if ARCHITECTURE not in registry.get_supported_archs():
            registry.register_model(ARCHITECTURE, f"{__name__}.model:{ARCHITECTURE}")
    except Exception:
        logging.getLogger(__name__).exception("the Boomerang plugin for vLLM failed")
        raise
