-- What the shop's database is given beside its tables, as one script of SQL: indexes, settings, and a function for
-- each query of the workload. Applied once, by the owner of the database, to tables that are loaded already.

-- Which indexes there are, a number each; 0 is none.
SET shop.orders_index = 0;
SET shop.lines_index = 0;
SET shop.email_index = 0;
SET shop.status_index = 0;

-- Settings of the sessions to come.
SET shop.work_mem_mb = 4;
SET shop.random_page_cost = 4;
SET shop.parallel_workers = 2;
SET shop.jit_compiler = 1;

DO $$
DECLARE
  statements text[] := ARRAY[
    (ARRAY['CREATE INDEX ON orders (customer)',
           'CREATE INDEX ON orders (customer, placed DESC, id DESC)'])[current_setting('shop.orders_index')::int],
    (ARRAY['CREATE INDEX ON lines (order_id)',
           'CREATE INDEX ON lines USING hash (order_id)'])[current_setting('shop.lines_index')::int],
    (ARRAY['CREATE INDEX ON customers (email)',
           'CREATE INDEX ON customers (lower(email))'])[current_setting('shop.email_index')::int],
    (ARRAY['CREATE INDEX ON orders (status)',
           'CREATE INDEX ON orders (placed) WHERE status = ''open'''])[current_setting('shop.status_index')::int],
    format('ALTER DATABASE shop SET work_mem = ''%sMB''', current_setting('shop.work_mem_mb')),
    format('ALTER DATABASE shop SET random_page_cost = %s', current_setting('shop.random_page_cost')),
    format('ALTER DATABASE shop SET max_parallel_workers_per_gather = %s', current_setting('shop.parallel_workers')),
    format('ALTER DATABASE shop SET jit = %s', current_setting('shop.jit_compiler'))
  ];
  statement text;
BEGIN
  FOREACH statement IN ARRAY statements LOOP
    IF statement IS NOT NULL THEN
      EXECUTE statement;
    END IF;
  END LOOP;
END $$;

-- The workload calls these. Name, parameters and rows must stay as they are.

CREATE FUNCTION orders_of_customer(wanted integer)
RETURNS TABLE (id integer, placed date, status text) LANGUAGE sql STABLE AS $$
  SELECT orders.id, orders.placed, orders.status
  FROM orders
  WHERE orders.customer = wanted
  ORDER BY orders.placed DESC, orders.id DESC
  LIMIT 10
$$;

CREATE FUNCTION lines_of_order(wanted integer)
RETURNS TABLE (product integer, quantity integer, cents integer) LANGUAGE sql STABLE AS $$
  SELECT lines.product, lines.quantity, lines.cents
  FROM lines
  WHERE lines.order_id = wanted
$$;

CREATE FUNCTION customer_by_email(wanted text)
RETURNS TABLE (id integer, region text) LANGUAGE sql STABLE AS $$
  SELECT customers.id, customers.region
  FROM customers
  WHERE lower(customers.email) = lower(wanted)
$$;

CREATE FUNCTION spent_by_customer(wanted integer)
RETURNS TABLE (status text, cents bigint) LANGUAGE sql STABLE AS $$
  SELECT orders.status, sum(lines.quantity * lines.cents)
  FROM orders JOIN lines ON lines.order_id = orders.id
  WHERE orders.customer = wanted
  GROUP BY orders.status
$$;
