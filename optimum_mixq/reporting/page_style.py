# Copyright 2026 The optimum-mixq authors. Licensed under the Apache License, Version 2.0.
"""The head of a report's page: how it looks on a screen, light or dark, and on paper."""

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>TITLE</title><style>
body{margin:0;background:#f8fafc;color:#0f172a;font:15px/1.5 system-ui,sans-serif}
main{max-width:900px;margin:0 auto;padding:32px 20px}
h1{font-size:26px;margin:0 0 16px}h2{font-size:18px;margin:0 0 4px}
section{background:#fff;border:1px solid #e2e8f0;border-radius:10px;padding:18px 20px;margin:16px 0}
p{color:#475569;margin:0 0 12px}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th{font-weight:500;color:#475569;text-align:right}td{text-align:right}
th,td{padding:4px 10px;border-bottom:1px solid #e2e8f0;white-space:nowrap}
td:first-child,th:first-child{text-align:left}tbody tr:last-child td{border-bottom:0}
.tiles{display:flex;flex-wrap:wrap;gap:12px}
.tiles div{background:#1e40af;color:#fff;border-radius:10px;padding:12px 18px}
.tiles b{display:block;font-size:24px}.tiles span{opacity:.85}
.maps{display:flex;flex-wrap:wrap;gap:14px}figure{margin:0}
figcaption{font-size:13px;color:#475569}img{border-radius:6px;display:block}
summary{cursor:pointer;color:#1e40af}
@media print{body{background:#fff}main{max-width:none;padding:0}section,figure,table{break-inside:avoid}
h2{break-after:avoid}.tiles div{print-color-adjust:exact;-webkit-print-color-adjust:exact}
svg rect{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
@media screen and (prefers-color-scheme:dark){body{background:#0f172a;color:#e2e8f0}
section{background:#1e293b;border-color:#334155}p,th,figcaption{color:#94a3b8}th,td{border-color:#334155}
summary{color:#93c5fd}svg .axis{fill:#94a3b8}}
</style></head>"""
