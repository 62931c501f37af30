#!/usr/bin/env bash
# Makes deploy/.env and deploy/secrets/ with random values, and leaves alone what is there.
set -euo pipefail
cd "$(dirname "$0")"
umask 022
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

# Containers run as users of their own, so that they need to read the files; nobody else can enter the folder.
mkdir -p secrets && chmod 700 secrets
[ -e secrets/prometheus_token ] || random > secrets/prometheus_token
[ -e secrets/anomvae_tokens ] || { cat secrets/prometheus_token; echo; random; echo; } > secrets/anomvae_tokens
[ -e secrets/alert_webhook_url ] || printf 'http://127.0.0.1:9/' > secrets/alert_webhook_url
[ -e .env ] || { sed "s/^GRAFANA_ADMIN_PASSWORD=\$/GRAFANA_ADMIN_PASSWORD=$(random)/" .env.example > .env; chmod 600 .env; }
echo "deploy/.env and deploy/secrets/ are ready; put where alerts go into deploy/secrets/alert_webhook_url"
