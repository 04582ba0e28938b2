// What concerns the whole page. A session that has ended: the next request brings the login page, instead of a page that
// no longer works.
import { labelFields } from "./field_labels.js";
import { closeOverlaysOutside } from "./overlays.js";
import { measureSticky } from "./sticky.js";

const fetchOriginal = window.fetch;
window.fetch = async (...request) => {
  const response = await fetchOriginal(...request);
  if (response.status === 401) location.reload();
  return response;
};

closeOverlaysOutside();
measureSticky();
labelFields();
