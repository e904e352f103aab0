"""`engine-export layout`: layout tables for the bundles of earlier exports."""
