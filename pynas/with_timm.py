"""Register `pynas_subnet` with timm as soon as timm is imported, by whomever; this module imports neither timm nor torch."""

from __future__ import annotations

import importlib
import sys
from typing import Any

_REGISTRY = "timm.models._registry"


def pynas_subnet(pretrained: bool = False, **options: Any) -> Any:
    """Return a found network for `timm.create_model`; see `pynas.export.timm_network.build`."""
    return importlib.import_module("pynas.export.timm_network").build(pretrained, **options)


class _Finder:
    """Finder of the import system that registers the entry point once timm's registry has run; it acts once."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec of timm's registry with the registration after it; None for any other module."""
        if name != _REGISTRY:
            return None
        import importlib.util

        sys.meta_path.remove(_Finder)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def and_register(module: Any) -> None:
            execute(module)
            module.register_model(pynas_subnet)

        spec.loader.exec_module = and_register  # type: ignore[method-assign]
        return spec


if _REGISTRY in sys.modules:
    sys.modules[_REGISTRY].register_model(pynas_subnet)
else:
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
