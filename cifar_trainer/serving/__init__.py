"""A server that classifies images: protocols, batching, monitoring, and a page to try it."""

from cifar_trainer.extras import check_extra

# Here, so that `cifar_trainer.serve` and the command have the same message if a package is missing.
check_extra("serve", "serve", ("starlette", "uvicorn", "httptools", "prometheus_client"))
