"""An MQTT broker in this process: subscriptions, sessions, retained messages; no socket, no clock, no permission of its
own. One node by design: what many gateways share is a broker behind them."""
