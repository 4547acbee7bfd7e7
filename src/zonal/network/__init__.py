"""How packets get from a zone to wherever they may go: networks, addresses, namespaces, filters, names.

What a zone is, this room does not know: it attaches a network namespace to a network by CNI, joins the namespace's
interface with another one (a zone's vif), and lets nothing else through than what belongs to the zone.
"""
