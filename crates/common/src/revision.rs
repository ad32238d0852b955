//! ControllerRevisions of pod templates.
