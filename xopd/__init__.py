"""X-OPD: cross-modal on-policy distillation of speech LLMs, as separately deployed services.

The shared library: everything that more than one service needs. It imports no service, and its packages import
torch only where they compute (`objective`, `families`), never vLLM.
"""

__version__ = "0.1.0"
