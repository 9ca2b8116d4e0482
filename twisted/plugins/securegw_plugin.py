"""What makes `twistd` know the command `securegw`."""

from twisted.application.service import ServiceMaker

securegw = ServiceMaker(
    "securegw",
    "gateway.app",
    "A secure gateway for PostgreSQL, HTTP, WebSockets and gRPC.",
    "securegw",
)
