"""The demo's tests run a model of their own as well."""

from tests.torch_threads import one_processor_thread

__all__ = ["one_processor_thread"]
