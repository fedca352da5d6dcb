#!/usr/bin/env python3
"""The dashboard of hapax, written down as code: deploy/grafana/dashboard.py > deploy/grafana/hapax.json

One row for each question an SRE asks. Only metrics of ../prometheus/metrics.txt: a test compares. Must not be edited in
hapax.json: import that file, change this one.
"""

import json

JOB = 'job=~"$job"'
ROUTE = f'{JOB},route=~"$route"'
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED = "green", "orange", "red"

ids = iter(range(1, 1000))


def target(expression, legend, index=0, **more):
    return {"datasource": SOURCE, "expr": expression, "legendFormat": legend, "refId": chr(ord("A") + index), **more}


def panel(kind, title, description, queries, width, height=8, unit="short", steps=(), options=None, **defaults):
    """One panel; `queries` are pairs of expression and legend."""
    instant = {"instant": True, "range": False} if kind == "stat" else {}
    thresholds = [{"color": GREEN, "value": None}, *({"color": color, "value": value} for value, color in steps)]
    return {
        "id": next(ids),
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": [target(expression, legend, index, **instant) for index, (expression, legend) in enumerate(queries)],
        "fieldConfig": {
            "defaults": {"unit": unit, "thresholds": {"mode": "absolute", "steps": thresholds}, **defaults},
            "overrides": [],
        },
        "options": options or {},
    }


def stat(title, description, expression, width=3, **more):
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "none",
    }
    return panel("stat", title, description, [(expression, "")], width, 4, options=options, **more)


def graph(title, description, *queries, width=8, stacked=False, **more):
    custom = {
        "fillOpacity": 20 if stacked else 5,
        "showPoints": "never",
        "stacking": {"mode": "normal" if stacked else "none"},
    }
    options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    return panel("timeseries", title, description, list(queries), width, custom=custom, options=options, **more)


def quantiles(metric, by="", select=JOB, quantile=None):
    """Pairs for p50, p95 and p99 of a histogram; for one quantile by labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(",")) if by else ""
    grouped = f"le, {by.replace(',', ', ')}" if by else "le"
    return [
        (
            f"histogram_quantile({q}, sum by ({grouped}) (rate({metric}_bucket{{{select}}}[$__rate_interval])))",
            f"p{q * 100:.0f} {legend}".strip(),
        )
        for q in ([quantile] if quantile else [0.5, 0.95, 0.99])
    ]


def age(metric, select=JOB):
    """Seconds since a time stamp that is 0 where there is none; nothing then."""
    return f"time() - min({metric}{{{select}}} > 0)"


def rate(metric, by, select=JOB):
    return f"sum by ({by}) (rate({metric}{{{select}}}[$__rate_interval]))"


def deliveries(state):
    return f'max({f"hapax_deliveries{{{JOB},state={json.dumps(state)}}}"})'


ROWS = [
    (
        "Is mail going out?",
        [
            stat("Waiting", "Deliveries that are due or will be.", deliveries("pending")),
            stat(
                "Oldest due",
                "How late the oldest due delivery is.",
                f"clamp_min({age('hapax_oldest_pending_timestamp_seconds')}, 0) or vector(0)",
                unit="s",
                steps=[(60, YELLOW), (600, RED)],
            ),
            stat(
                "In doubt",
                "Nobody knows whether they arrived: hapax ls --in-doubt",
                deliveries("in_doubt"),
                steps=[(1, YELLOW), (20, RED)],
            ),
            stat(
                "Held", "Stopped by a guard or a person: hapax ls --state held", deliveries("held"), steps=[(1, YELLOW)]
            ),
            stat(
                "Accepted",
                "Deliveries a second that a mail server took.",
                f'sum(rate(hapax_attempts_total{{{ROUTE},outcome="accepted"}}[$__rate_interval]))',
                unit="ops",
            ),
            stat(
                "p99 commit to 2xx",
                "From the application's commit to the server's reply.",
                quantiles("hapax_time_to_accept_seconds", quantile=0.99)[0][0],
                unit="s",
            ),
            stat(
                "Relays alive",
                "As the database sees it.",
                f"max(hapax_relays_alive{{{JOB}}}) or vector(0)",
                thresholds={"mode": "absolute", "steps": [{"color": RED, "value": None}, {"color": GREEN, "value": 1}]},
            ),
            stat(
                "Database",
                "Relays that do not reach it.",
                f"sum(hapax_database_up{{{JOB}}} == bool 0)",
                steps=[(1, RED)],
            ),
        ],
    ),
    (
        "What waits, and why?",
        [
            graph(
                "Deliveries that have not ended",
                "Of the whole database, by state.",
                (
                    f'max by (state) (hapax_deliveries{{{JOB},state=~"pending|claimed|sending|in_doubt|held"}})',
                    "{{state}}",
                ),
                stacked=True,
            ),
            graph(
                "Due, and in nobody's hands",
                "What an autoscaler looks at: outbox.backlog().",
                (f"max(hapax_backlog{{{JOB}}})", "backlog"),
                width=4,
            ),
            graph(
                "Paused",
                "Routes, kinds and tenants that wait for `hapax resume`: `hapax status` says which, and why.",
                (f"max by (what) (hapax_paused{{{JOB}}})", "{{what}}"),
                width=4,
            ),
            graph(
                "How long",
                "The oldest due delivery, and the oldest doubt.",
                (age("hapax_oldest_pending_timestamp_seconds"), "pending"),
                (age("hapax_oldest_in_doubt_timestamp_seconds"), "in doubt"),
                unit="s",
                width=4,
            ),
            graph(
                "Blocked routes",
                "1 while connections of a route fail and it rests.",
                (f"max by (route) (hapax_route_blocked{{{ROUTE}}})", "{{route}}"),
                max=1,
                min=0,
                width=4,
            ),
            graph(
                "Connections allowed, and detours",
                "Fewer than max_connections while a server asks for less; deliveries a second that a fallback takes.",
                (f"sum by (route) (hapax_route_connections_limit{{{ROUTE}}})", "{{route}}: connections"),
                (f"sum by (route) (rate(hapax_route_detours_total{{{ROUTE}}}[$__rate_interval]))", "{{route}}: detours"),
                min=0,
                width=6,
            ),
            graph(
                "Rates",
                "What all relays may send by a route with a rate, a second, and the part of them that waits for it.",
                (f"sum by (route) (hapax_route_rate_limit{{{ROUTE}}})", "{{route}}: limit"),
                (f"avg by (route) (hapax_route_waiting_for_rate{{{ROUTE}}})", "{{route}}: waiting"),
                min=0,
                width=6,
            ),
        ],
    ),
    (
        "What do the mail servers say?",
        [
            graph(
                "Attempts by outcome",
                "A second, of all relays.",
                (rate("hapax_attempts_total", "outcome", ROUTE), "{{outcome}}"),
                unit="ops",
                stacked=True,
            ),
            graph(
                "Not accepted, by route",
                "A second.",
                (
                    rate("hapax_attempts_total", "route, outcome", f'{ROUTE},outcome!="accepted"') + " > 0",
                    "{{route}} {{outcome}}",
                ),
                unit="ops",
            ),
            graph(
                "New doubts",
                "Within a quarter of an hour, by route and phase.",
                (f"sum by (route, phase) (increase(hapax_in_doubt_total{{{ROUTE}}}[15m]))", "{{route}} {{phase}}"),
            ),
        ],
    ),
    (
        "How long does it take?",
        [
            graph(
                "Commit to 2xx",
                "From the application's commit to the server's reply, retries included.",
                *quantiles("hapax_time_to_accept_seconds"),
                unit="s",
            ),
            graph(
                "SMTP phases, p95",
                "Where a dialogue spends its time.",
                *quantiles("hapax_smtp_phase_duration_seconds", "phase", quantile=0.95),
                unit="s",
            ),
            graph(
                "Connections",
                "Busy as many as max_connections: the server or the limit is the bottleneck.",
                (f"sum by (route, state) (hapax_smtp_connections{{{ROUTE}}})", "{{route}} {{state}}"),
            ),
        ],
    ),
    (
        "Is the database the bottleneck?",
        [
            graph(
                "Claims",
                "How long it takes to get work.",
                *quantiles("hapax_claim_duration_seconds"),
                unit="s",
                width=6,
            ),
            graph(
                "Claimed at once",
                "Near 1 with a backlog: something else is the bottleneck.",
                (
                    f"sum(rate(hapax_claim_batch_size_sum{{{JOB}}}[$__rate_interval]))"
                    f" / sum(rate(hapax_claim_batch_size_count{{{JOB}}}[$__rate_interval]))",
                    "mean",
                ),
                (f"sum(rate(hapax_claims_total{{{JOB}}}[$__rate_interval]))", "claims a second"),
                width=6,
            ),
            graph(
                "Commits of the ledger, p95",
                "intend: before the end of a message leaves. settle: its outcome.",
                *quantiles("hapax_ledger_commit_duration_seconds", "step", quantile=0.95),
                unit="s",
                width=6,
            ),
            graph(
                "Connections to Postgres",
                "Of all relays.",
                (f"sum by (state) (hapax_db_pool_connections{{{JOB}}})", "{{state}}"),
                width=6,
                stacked=True,
            ),
        ],
    ),
    (
        "Are the relays well?",
        [
            graph(
                "Since the last look for work",
                "Moves all the time, also when nothing is to do. In guard mode it grows.",
                (f"time() - hapax_last_poll_timestamp_seconds{{{JOB}}}", "{{instance}}"),
                unit="s",
            ),
            graph(
                "Memory",
                "Resident.",
                (f"process_resident_memory_bytes{{{JOB}}}", "{{instance}}"),
                unit="bytes",
            ),
            graph(
                "CPU",
                "Cores.",
                (f"rate(process_cpu_seconds_total{{{JOB}}}[$__rate_interval])", "{{instance}}"),
            ),
            graph(
                "File descriptors",
                "Open, and how many there may be.",
                (f"process_open_fds{{{JOB}}}", "{{instance}}"),
                (f"min(process_max_fds{{{JOB}}})", "limit"),
            ),
            graph(
                "Clock",
                "Database minus relay.",
                (f"hapax_clock_skew_seconds{{{JOB}}}", "{{instance}}"),
                unit="s",
            ),
            graph(
                "Living relays",
                "As the database knows them, by version: two while a rollout is under way.",
                (f"count by (version) (max by (incarnation, version) (hapax_relay_info{{{JOB}}}))", "{{version}}"),
            ),
            stat(
                "Up for",
                "The relay that was started last.",
                f"time() - max(process_start_time_seconds{{{JOB}}})",
                unit="s",
                width=4,
            ),
            stat(
                "Versions",
                "More than one: a rollout is under way, or has stopped.",
                f"count(count by (version) (hapax_build_info{{{JOB}}}))",
                width=4,
                steps=[(2, YELLOW)],
            ),
            stat(
                "Reloads refused",
                "Relays whose last reload failed.",
                f"sum(hapax_config_last_reload_successful{{{JOB}}} == bool 0)",
                width=4,
                steps=[(1, YELLOW)],
            ),
            stat(
                "Reloads",
                "Of all relays, in the time shown.",
                f"sum(increase(hapax_config_reloads_total{{{JOB}}}[$__range]))",
                width=4,
            ),
            stat(
                "Certificate",
                "Until the first one of a mail server ends.",
                f"min(hapax_certificate_expiry_timestamp_seconds{{{ROUTE}}} > 0) - time()",
                unit="s",
                width=4,
                thresholds={
                    "mode": "absolute",
                    "steps": [
                        {"color": RED, "value": None},
                        {"color": YELLOW, "value": 3 * 86400},
                        {"color": GREEN, "value": 14 * 86400},
                    ],
                },
            ),
            stat(
                "Canary",
                "Since it last came through, in its own intervals; nothing where none is configured.",
                f"(time() - max(hapax_canary_last_completed_timestamp_seconds{{{JOB}}} > 0))"
                f" / max(hapax_canary_interval_seconds{{{JOB}}} > 0)",
                width=2,
                steps=[(2, YELLOW), (3, RED)],
                decimals=1,
            ),
            stat(
                "Canary sent",
                "Since one was enqueued last: while one is under way no other is.",
                age("hapax_canary_last_enqueued_timestamp_seconds").replace("min(", "max("),
                unit="s",
                width=2,
            ),
            stat(
                "Spans dropped",
                "Traces that no collector took, in the time shown; mail waits for none of them.",
                f"sum(increase(hapax_spans_dropped_total{{{JOB}}}[$__range]))",
                width=4,
                steps=[(1, YELLOW)],
            ),
            stat(
                "Spans exported",
                "In the time shown; none where traces are off.",
                f"sum(increase(hapax_spans_exported_total{{{JOB}}}[$__range]))",
                width=4,
            ),
        ],
    ),
]


def placed():
    """Panels in rows, left to right, 24 wide."""
    panels, y = [], 0
    for title, row in ROWS:
        panels.append(
            {
                "id": next(ids),
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
            }
        )
        y, x, height = y + 1, 0, 0
        for one in row:
            place = one["gridPos"]
            if x + place["w"] > 24:
                y, x, height = y + height, 0, 0
            place.update(x=x, y=y)
            x, height = x + place["w"], max(height, place["h"])
            panels.append(one)
        y += height
    return panels


def variable(name, label, query):
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def annotation(name, color, expression, text):
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": color,
        "expr": expression,
        "step": "30s",
        "titleFormat": text,
        "useValueForTime": False,
    }


def dashboard():
    return {
        "uid": "hapax",
        "title": "Hapax",
        "tags": ["hapax", "mail"],
        "description": "Transactional outbox relay for email. Written by dashboard.py.",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "links": [
            {
                "title": "Runbook",
                "type": "link",
                "url": "https://github.com/hapax/hapax/blob/main/deploy/RUNBOOK.md",
                "targetBlank": True,
            }
        ],
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "refresh": 1,
                },
                variable("job", "Job", "label_values(hapax_build_info, job)"),
                variable("route", "Route", 'label_values(hapax_route_blocked{job=~"$job"}, route)'),
            ]
        },
        "annotations": {
            "list": [
                annotation(
                    "Relay started",
                    "blue",
                    f"changes(process_start_time_seconds{{{JOB}}}[1m]) > 0",
                    "{{instance}} started",
                ),
                annotation(
                    "Configuration reloaded",
                    "purple", f"changes(hapax_config_last_reload_timestamp_seconds{{{JOB}}}[1m]) > 0",
                    "{{instance}} reloaded",
                ),
            ]
        },
        "panels": placed(),
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
