"""The console command `securegw`: what operators do by hand, each one command, over the same INI as the gateway."""
