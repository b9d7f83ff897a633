"""Pictures and pages a person would rather look at than read logs."""

import sys
from types import ModuleType


class _Callable(ModuleType):
    """Importing this package puts it where `palate.report`, the function, is found; so that it can still be called there."""

    def __call__(self, *args, **kwargs):
        from palate.report.runs import report

        return report(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
