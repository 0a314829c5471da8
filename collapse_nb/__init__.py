"A notebook-first companion to the paper 'A Closer Look at Model Collapse' (arXiv 2509.16499). `report` is fetched when it is asked for."

__all__ = ["report"]


def __getattr__(name: str):
    if name == "report":
        from .health import report
        return report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
