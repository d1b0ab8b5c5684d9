"""The matrix: every fault, in the order in which they are played, and the few of the short form."""

from __future__ import annotations

from tests.chaos import faults_backend, faults_client, faults_gateway, faults_postgres, faults_redis, faults_worker

FAULTS = (
    *faults_gateway.FAULTS,
    *faults_worker.FAULTS,
    *faults_redis.FAULTS,
    *faults_client.FAULTS,
    *faults_backend.FAULTS,
    *faults_postgres.FAULTS,  # Last: its last one leaves PostgreSQL's data on a small disk.
)

SHORT = (
    "gateway-killed",
    "gateway-stopped",
    "worker-killed",
    "broker-absent",
    "postgres-crashed",
    "postgres-frozen",
    "redis-killed",
    "redis-flushed",
    "client-closes",
    "backend-flaps",
    "backend-babbles",
)
